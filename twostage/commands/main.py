"""`twostage`, the command: one word says what to do, and only what that needs is imported."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence

from twostage import __version__
from twostage.commands.parser import Parser
from twostage.errors import UserError, near_names, run_cli


@dataclasses.dataclass(frozen=True)
class Command:
    """A word behind `twostage`.

    Attributes:
        summary: half a sentence for the list of commands.
        parser: "module:function" that gives its parser; the module imports nothing heavy.
        module: where its `run_from_arguments` is.
        text: what its `--help` shows below the summary.
    """

    summary: str
    parser: str
    module: str
    text: str = ""

    def build_parser(self, name: str) -> Parser:
        """The parser of `twostage <name>`."""
        module, _, function = self.parser.partition(":")
        text = f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.text}".rstrip()
        return getattr(importlib.import_module(module), function)(text, f"twostage {name}")


_ARGUMENTS = "twostage.commands.arguments"
_DATASETS = "twostage.commands.prepare_datasets"
_OVERRIDES = "Everything after the options is config: KEY VALUE pairs."

COMMANDS = {
    "systems": Command("list the systems", f"{_ARGUMENTS}.systems:systems_parser", "twostage.commands.systems"),
    "segment": Command(
        "paint pictures with words of your own",
        f"{_ARGUMENTS}.pictures:segment_parser",
        "twostage.commands.segment",
        'twostage segment photo.jpg folder/ --words "cat, sofa" --system san_vitb --weights san_vit_b_16.pth --output out/\n\n'
        'Names are separated by commas; where a name holds synonyms, by semicolons ("cat; sofa, couch"). WORDS may also be a\n'
        "file (.txt, one class per line), a dataset (ade20k_150_val) or a dataset folder of your own. Prints what covers how\n"
        "much. A picture that can't be read is reported at the end, and the others still get done.",
    ),
    "label": Command(
        "label many pictures, on one machine or several",
        f"{_ARGUMENTS}.pictures:label_parser",
        "twostage.commands.label",
        "twostage label photos/ --words names.txt --system san_vitb --weights official --output labels/\n\n"
        "Results come in shards, each whole or not there; a run that was stopped goes on where it was. Under torchrun or\n"
        "Slurm the same command shares the work of several machines (docs/label_many.md).",
    ),
    "large": Command(
        "label a picture that is too large for one look, or a GeoTIFF",
        f"{_ARGUMENTS}.pictures:large_parser",
        "twostage.commands.large",
        'twostage large scene.tif --words "road; roof; field" --system san_vitb --weights official --output labels.tif\n\n'
        "Tiles with overlap are joined as scores (keys TEST.LARGE). GeoTIFF needs the extra: pip install 'twostage[geo]'.",
    ),
    "video": Command(
        "label the frames of a video",
        f"{_ARGUMENTS}.pictures:video_parser",
        "twostage.commands.video",
        'twostage video ride.mp4 --words "road; car; sky" --system san_vitb --weights official --output out/\n\n'
        "Writes labels.mkv (lossless, a grey per name), overlay.mp4 and rows.jsonl. Needs the extra: pip install\n"
        "'twostage[video]'.",
    ),
    "export": Command(
        "write a system as ONNX files that run without torch",
        f"{_ARGUMENTS}.systems:export_parser",
        "twostage.commands.export",
        "twostage export --system san_vitb --weights official --output san.onnx\n\n"
        "Writes the network and, beside it, the text tower. Both are compared with torch on toybox pictures; files that\n"
        f"differ are not kept. Needs the extra: pip install 'twostage[export]'. {_OVERRIDES}",
    ),
    "serve": Command(
        "paint pictures on a web page of this machine",
        f"{_ARGUMENTS}.systems:serve_parser",
        "twostage.commands.serve",
        "twostage serve --system toybox/san --weights output/san/model_final.pth\n\n"
        "Without --system, every published system whose weights are on this machine. Listens on 127.0.0.1, so that only this\n"
        "machine sees it. Needs the extra: pip install 'twostage[web]'.",
    ),
    "weights": Command(
        "list published weights, get them, check them",
        f"{_ARGUMENTS}.systems:weights_parser",
        "twostage.commands.weights",
        "twostage weights list\ntwostage weights get san_vitb\ntwostage weights verify\n\n"
        "Files are kept in TWOSTAGE_HOME (default: the user's cache folder); TWOSTAGE_OFFLINE=1 forbids the network.",
    ),
    "train": Command(
        "train a system",
        f"{_ARGUMENTS}.learning:train_parser",
        "twostage.commands.train",
        f"twostage train --system toybox/san OUTPUT_DIR output/san\n\n{_OVERRIDES}",
    ),
    "evaluate": Command(
        "evaluate a system on datasets, beside published figures",
        f"{_ARGUMENTS}.learning:evaluate_parser",
        "twostage.commands.evaluate",
        "twostage evaluate --system san_vitb --weights san_vit_b_16.pth --datasets five --report\n\n"
        'Datasets are registered names, what papers call a benchmark ("A-150"), "five" or "all"; without --datasets,\n'
        f"DATASETS.TEST. {_OVERRIDES}",
    ),
    "datasets": Command(
        "list the datasets, or all about one of them", f"{_ARGUMENTS}.datasets:datasets_parser", _DATASETS
    ),
    "prepare": Command(
        "make the labels of a dataset from its download",
        f"{_ARGUMENTS}.datasets:prepare_parser",
        _DATASETS,
        "twostage prepare ade20k_150 --source downloads/\n"
        "twostage prepare shapes/                    (labels in the colours of its classes.json become indices)\n"
        "twostage prepare pets/ --coco instances.json --pictures photos/ --splits train\n\n"
        "Labels that exist already are kept.",
    ),
    "verify": Command(
        "check the files of a dataset; exit code 1 where something is wrong",
        f"{_ARGUMENTS}.datasets:verify_parser",
        _DATASETS,
    ),
    "benchmark": Command(
        "measure where a system's time goes",
        f"{_ARGUMENTS}.learning:benchmark_parser",
        "twostage.commands.benchmark",
        f"twostage benchmark --system san_vitb MODEL.CLIP.PRETRAINED ''\n\n{_OVERRIDES}",
    ),
    "completion": Command(
        "print what makes a shell complete these words",
        f"{_ARGUMENTS}.systems:completion_parser",
        "twostage.commands.completion",
        'bash: eval "$(twostage completion bash)"    in ~/.bashrc\n'
        'zsh:  eval "$(twostage completion zsh)"     in ~/.zshrc, behind compinit\n'
        "fish: twostage completion fish > ~/.config/fish/completions/twostage.fish",
    ),
}


def overview() -> Parser:
    """The parser of `twostage` without a command: its `--help` lists them."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        "Open-vocabulary segmentation: words in, masks out.",
        "twostage",
        usage="twostage COMMAND ...",
        epilog="commands:\n" + "\n".join(lines) + "\n\n`twostage COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"twostage {__version__}")
    return parser


def run(words: Sequence[str]) -> None:
    """Do what the words behind `twostage` say.

    Raises:
        UserError: an unknown command or option, or whatever is wrong with what a command was given.
    """
    if not words:
        overview().print_help()
        return
    name, *rest = words
    if name.startswith("-"):
        overview().parse_args([name])
    command = COMMANDS.get(name)
    if command is None:
        raise UserError(f"there is no command {name!r}{near_names(name, COMMANDS)}; `twostage --help` lists them")
    arguments = command.build_parser(name).parse_args(rest)
    # Imported only now, so that --help needs no torch.
    importlib.import_module(command.module).run_from_arguments(arguments)


def main() -> None:
    """The console script."""
    run_cli(lambda: run(sys.argv[1:]))
