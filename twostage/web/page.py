"""The page itself: fields on the left, answers on the right, one named endpoint for scripts."""

from __future__ import annotations

import html
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from twostage.errors import find_user_error
from twostage.web.examples import toybox_examples
from twostage.web.limits import FILE_BYTES
from twostage.web.requests import AUTOMATIC, NO_SECOND, NOTHING, OWN, Desk, Request

logger = logging.getLogger(__name__)

# Requests that are worked on at once, and that may wait; each system answers one at a time.
_AT_ONCE, _WAITING = 16, 256
# Seconds between looks for uploads to delete, and how old they become.
_CLEANING = (600, 3600)
_FOLDER = Path(__file__).parent
_ABOUT = """
# Words in, masks out

Drop, paste or choose a picture, write words, press Enter. The picture is looked at once; other words for it take
no second look.
"""

T = TypeVar("T")


def build_page(desk: Desk) -> gr.Blocks:
    """The page for the systems of `desk`."""
    names = list(desk.systems)
    with gr.Blocks(title="twostage", analytics_enabled=False, delete_cache=_CLEANING) as page:
        gr.Markdown(_ABOUT)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = _picture_field()
                words = gr.Textbox("", label="Words", placeholder="cat, sofa", lines=1, max_lines=1, elem_id="ts-words")
                with gr.Row():
                    system = gr.Dropdown(names, value=names[0], label="System", min_width=120)
                    second = gr.Dropdown([NO_SECOND, *names], value=NO_SECOND, label="Compare with", min_width=120)
                mode = gr.Radio(
                    [AUTOMATIC, NOTHING, OWN],
                    value=AUTOMATIC,
                    label="What competes with the words",
                    info="Pixels where other words win are none of yours.",
                )
                others = gr.Textbox("", label="Words of mine that compete", placeholder="wall, sky", visible=False)
                things = gr.Textbox(
                    "", label="Tell objects apart", placeholder="cat", info="Some of the words; for systems with masks."
                )
                paint = gr.Button("Paint", variant="primary", elem_id="ts-paint")
            with gr.Column(scale=3, min_width=300):
                with gr.Row(elem_id="ts-answers"):
                    first_view = gr.HTML(elem_id="ts-first", min_height=40)
                    second_view = gr.HTML(elem_id="ts-second", visible=False)
                collect = gr.Button("Files to download", elem_id="ts-collect")
                files = gr.File(
                    label="Overlay, label map, COCO's json", file_count="multiple", visible=False, elem_id="ts-files"
                )
        for box in (words, others, things):
            # Gradio would make text of whatever a script sends.
            box.preprocess = lambda payload: payload  # type: ignore[method-assign]
        fields = [picture, words, system, mode, others, things]
        gr.Examples(toybox_examples(desk.folder), [picture, words], label="Examples")
        mode.change(
            lambda chosen: gr.update(visible=chosen == OWN), mode, others, api_visibility="private", queue=False
        )
        gr.on(
            [paint.click, words.submit, others.submit, things.submit, picture.upload, system.change, second.change],
            _shown(desk),
            [*fields, second],
            [first_view, second_view],
            api_visibility="private",
            concurrency_limit=_AT_ONCE,
            show_progress="minimal",
            trigger_mode="always_last",
        )
        collect.click(_collected(desk), fields, files, api_visibility="private", concurrency_limit=_AT_ONCE)
        told = gr.JSON(visible=False)
        asked = gr.Button(visible=False)
        asked.click(_told(desk), fields, told, api_name="segment", concurrency_limit=_AT_ONCE)
    return page.queue(max_size=_WAITING)


def open_page(page: gr.Blocks, *, host: str, port: int, block: bool = True) -> str:
    """Serve the page; returns its address, at once or (`block`) when it is stopped. Port 0 stands for any free one.

    Raises:
        OSError: the port is taken.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or _free_port(host),
        prevent_thread_lock=not block,
        share=False,
        show_error=False,
        max_file_size=FILE_BYTES,
        enable_monitoring=False,
        ssr_mode=False,
        quiet=True,
        footer_links=["api"],
        theme=_theme(),
        css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(_FOLDER / 'viewer.js').read_text(encoding='utf-8')}</script>",
    )
    return str(address)


def _picture_field() -> gr.Image:
    """Gradio's, but handing over the path of the file as it was sent: what is wrong with it is said by our own reader.

    An instance's method and no subclass, for which Gradio would write a file beside this one. Gradio itself sees to it that
    the path is one of an upload.
    """
    field = gr.Image(label="Picture", sources=["upload", "clipboard"], height=280, elem_id="ts-picture")
    field.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
    return field


def _theme() -> gr.themes.Base:
    """Gradio's own, with fonts of the reader's machine, so that nothing is fetched, and text dark enough to read."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


def _shown(desk: Desk) -> Callable[..., Any]:
    def show(
        picture: str | None, words: str, system: str, mode: str, others: str, things: str, second: str
    ) -> tuple[Any, Any]:
        # A picture without words yet, or words without a picture: nothing to do, and nothing wrong.
        if not picture or not words or not words.strip():
            return gr.skip(), gr.skip()

        def ask(name: str) -> str:
            asked = Request(picture=picture, words=words, system=name, mode=mode, others=others, things=things)
            return _answered(lambda: desk.view(asked))

        if second in (NO_SECOND, system):
            return ask(system), gr.update(value="", visible=False)
        return ask(system), gr.update(value=ask(second), visible=True)

    return show


def _collected(desk: Desk) -> Callable[..., Any]:
    def collect(picture: str | None, words: str, system: str, mode: str, others: str, things: str) -> Any:
        asked = Request(picture=picture, words=words, system=system, mode=mode, others=others, things=things)
        return gr.update(value=_answered(lambda: desk.files(asked)), visible=True)

    return collect


def _told(desk: Desk) -> Callable[..., Any]:
    def segment(
        picture: str | None, words: str, system: str, mode: str = AUTOMATIC, others: str = "", things: str = ""
    ) -> dict[str, Any]:
        asked = Request(picture=picture, words=words, system=system, mode=mode, others=others, things=things)
        return _answered(lambda: desk.told(asked))

    return segment


def _answered(work: Callable[[], T]) -> T:
    """What `work` returns; whatever it raises becomes a message for the page, without a word about this machine."""
    try:
        return work()
    except Exception as error:
        known = find_user_error(error)
        if known is None:
            logger.exception("a request failed")
            message = "The system failed at this; the log of the server says why."
        else:
            message = str(known)
        # The page takes messages for HTML.
        raise gr.Error(html.escape(message), print_exception=False) from None
