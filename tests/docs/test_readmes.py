"""Markdown files say only what is there: paths, commands, flags and config keys exist; READMEs stay short handbooks."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from twostage.commands.main import COMMANDS
from twostage.config import load_config
from twostage.config.loading import all_keys, default_config
from twostage.systems.cards import all_cards

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs", "docs", "tests", "third_party", "tools", "twostage")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
READMES = [path for path in DOCUMENTS if path.name == "README.md"]
# History may name what is gone.
LIVE = [path for path in DOCUMENTS if path.name not in ("LOG.md", "CHANGELOG.md")]
SUFFIXES = tuple(
    f".{x}" for x in ("py", "yaml", "md", "json", "npz", "safetensors", "pth", "bin", "txt", "csv", "toml", "html")
)
# What authors publish, what users have, what commands write.
NOT_OURS = (
    "*.pth segclip.bin .* datasets/ output/* out/* classes.txt classes.json names.txt pairs.csv "
    "coco.json results.md config.yaml log.txt metrics.json weights/ text/ part-* <picture>.*"
)
# Python's and the house's own words in capitals.
WORDS = {"CARDS", "SYSTEMS", "GROUPS", "RECIPES", "META_ARCH_REGISTRY", "KEY"}
# Of the environment.
VARIABLES = {
    "TWOSTAGE_HOME", "TWOSTAGE_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "RAY_ADDRESS", "LOCAL_RANK", "SLURM_LOCALID",
    "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY",
}  # fmt: skip
KEY = re.compile(r"\b(?:[A-Z][A-Z0-9_]*\.)+[A-Z][A-Z0-9_]*\b")
DIARY = re.compile(
    r"\b(no longer|used to be|was wrong|were wrong|at first|formerly|previously|any ?more|not yet|so far|yesterday|today)\b",
    re.I,
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parts(path: Path) -> tuple[list[str], list[str]]:
    """Lines of prose, and commands of code blocks with continued lines joined and comments gone."""
    prose: list[str] = []
    code: list[str] = []
    fenced = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line.strip())
        else:
            prose.append(line)
    joined = "\n".join(code).replace("\\\n", " ").splitlines()
    return prose, [re.sub(r"\s+#.*", "", line) for line in joined]


def quoted(line: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", line)


def all_quoted(path: Path) -> Iterator[str]:
    for line in parts(path)[0]:
        yield from quoted(line)


def commands(path: Path) -> list[str]:
    """`python tools/...` and `make ...` in code blocks and in quotes."""
    lines = [*parts(path)[1], *all_quoted(path)]
    return [line for line in lines if re.match(r"(python tools/|make \w)", line)]


def is_path(token: str) -> bool:
    plain = re.fullmatch(r"[\w.<>{},*-]+(/[\w.<>{},*-]+)*/?", token) is not None
    return plain and ("/" in token or Path(token).suffix in SUFFIXES)


def patterns(token: str) -> list[str]:
    """`a_{b,c}/<name>.yaml` as glob patterns: a_b/*.yaml and a_c/*.yaml."""
    braces = re.search(r"\{([^{}]*)\}", token)
    if braces:
        return [p for word in braces[1].split(",") for p in patterns(token.replace(braces[0], word, 1))]
    return [re.sub(r"<[^<>]*>", "*", token)]


def found(pattern: str, bases: list[Path]) -> list[Path]:
    names = (pattern, f"{pattern}.yaml")
    return [
        hit
        for base in bases
        for name in names
        for hit in ([base / name] if "*" not in name else base.glob(name))
        if hit.exists()
    ]


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*"))


@cache
def known_keys() -> tuple[frozenset[str], frozenset[str]]:
    """Dotted names of keys and blocks, and their last words."""
    keys = all_keys(default_config())
    dotted = {key.rsplit(".", cut)[0] if cut else key for key in keys for cut in range(key.count(".") + 1)}
    return frozenset(dotted), frozenset(key.rpartition(".")[2] for key in dotted)


@cache
def known_flags() -> frozenset[str]:
    sources = [*(ROOT / "tools").glob("*.py"), *(ROOT / "twostage/commands").rglob("*.py")]
    sources += [ROOT / "tests/conformance/command.py", ROOT / "third_party/detectron2/detectron2/engine/defaults.py"]
    return frozenset(flag for path in sources for flag in re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_paths_exist(path: Path) -> None:
    missing = []
    for line in parts(path)[0]:
        bases = [path.parent, ROOT, ROOT / "configs"]
        for token in quoted(line):
            if (
                not is_path(token)
                or any(fnmatch(token, pattern) for pattern in NOT_OURS.split())
                or token.startswith("../shared")
            ):
                continue
            for pattern in patterns(token):
                hits = found(pattern, bases)
                # Names behind a folder may be meant inside it; documents about everything may call a file by its name.
                bases += [hit for hit in hits if hit.is_dir()]
                if not hits and not (path.parent in (ROOT, ROOT / "docs") and pattern in file_names()):
                    missing.append(token)
    assert not missing


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    targets = [target for line in parts(path)[0] for target in re.findall(r"\]\(([^)#\s]+)", line)]
    assert not [t for t in targets if not t.startswith(("http://", "https://")) and not (path.parent / t).exists()]


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_modules_exist(path: Path) -> None:
    for token in all_quoted(path):
        if re.fullmatch(r"twostage(\.[a-z_0-9]+)+", token):
            place = ROOT.joinpath(*token.split("."))
            assert place.is_dir() or place.with_suffix(".py").is_file(), token


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_config_keys_exist(path: Path) -> None:
    dotted, words = known_keys()
    # An example may declare a block of its own.
    declared = tuple(block for line in parts(path)[1] for block in re.findall(r"^cfg\.([A-Z_.]+) = CN\(\)", line))
    keys = [key for text in (*all_quoted(path), *parts(path)[1]) for key in KEY.findall(text)]
    assert not [key for key in keys if key not in dotted and not key.startswith(declared)]
    meta_architectures = {card.meta_architecture for card in all_cards()}
    first_words = [token.split()[0] for token in all_quoted(path)]
    capitals = [word for word in first_words if re.fullmatch(r"[A-Z][A-Z0-9_]{2,}", word)]
    assert not [word for word in capitals if word not in words | meta_architectures | WORDS | VARIABLES]


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_words_of_the_command_are_known(path: Path) -> None:
    """`twostage` lines in code blocks and quotes are parsed by the command's own parsers; <...> and ... stand for anything."""
    lines = [line for line in (*parts(path)[1], *all_quoted(path)) if re.match(r"twostage [\w-]", line)]
    for line in lines:
        name, *words = shlex.split(line)[1:]
        if name == "--help" or "..." in line or name.isupper():
            continue
        assert name in COMMANDS, line
        parser = COMMANDS[name].build_parser(name)
        # In prose a command may stand for all that begin so.
        if words and (line in parts(path)[1] or any(word.startswith("--") for word in words)):
            with contextlib.suppress(SystemExit):
                parser.parse_args(words)


@pytest.mark.parametrize("path", LIVE, ids=name_of)
def test_commands_are_there(path: Path) -> None:
    flags = [token for token in all_quoted(path) if re.fullmatch(r"--[\w-]+", token)]
    for command in commands(path):
        program, name, *arguments = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), command
            continue
        assert (ROOT / name).is_file(), command
        flags += [argument for argument in arguments if argument.startswith("--")]
        if "--config-file" in arguments:
            check_config(command, arguments)
    assert set(flags) <= known_flags() | {"--help"}


def check_config(command: str, arguments: list[str]) -> None:
    """The command's config is there, and with its `KEY VALUE` pairs it is one that can be read."""
    config = arguments[arguments.index("--config-file") + 1]
    assert found(patterns(config)[0], [ROOT]), command
    starts = [
        i for i, argument in enumerate(arguments) if KEY.fullmatch(argument) or argument in ("SEED", "OUTPUT_DIR")
    ]
    if "<" not in config and "KEYS" not in arguments:
        load_config(str(ROOT / config), arguments[starts[0] :] if starts else [])


def test_readmes_are_short() -> None:
    def lines(path: Path) -> int:
        return len(path.read_text(encoding="utf-8").splitlines())

    assert lines(ROOT / "README.md") <= 150
    systems = sorted((ROOT / "twostage/systems").glob("*/*/README.md"))
    assert systems and {name_of(path): lines(path) for path in systems if lines(path) > 30} == {}


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_readmes_are_no_diaries(path: Path) -> None:
    assert not [line for line in parts(path)[0] if DIARY.search(line)]


def test_every_system_has_a_handbook() -> None:
    for card in all_cards():
        if card.module.startswith("twostage."):
            assert ROOT.joinpath(*card.module.split(".")[:-1], "README.md").is_file(), card.name
