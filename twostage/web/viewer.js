// Paints the answers (class ts-view, see viewer.py): toggles, opacity, and the word under the pointer. No request is made.
(() => {
  const NONE = "none of the words";

  function setUp(view) {
    const canvas = view.querySelector("canvas"), map = view.querySelector(".ts-map"), tip = view.querySelector(".ts-tip");
    const rows = new Map([...view.querySelectorAll("tr[data-number]")].map((row) => [Number(row.dataset.number), row]));
    let numbers = null, alone = 0;

    function read() {
      canvas.width = map.naturalWidth;
      canvas.height = map.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(map, 0, 0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
      numbers = new Uint16Array(canvas.width * canvas.height);
      for (let i = 0; i < numbers.length; i++) numbers[i] = pixels[4 * i] + 256 * pixels[4 * i + 1];
      paint();
      view.dataset.painted = "yes";
    }

    function paint() {
      const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
      const words = new Uint32Array(image.data.buffer), colors = new Uint32Array(65536);
      for (const [number, row] of rows) {
        const box = row.querySelector("input");
        if (!box || !box.checked) continue;
        const rgb = parseInt(row.dataset.color, 16), alpha = alone && alone !== number ? 70 : 255;
        colors[number] = ((alpha << 24) | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
      }
      for (let i = 0; i < numbers.length; i++) words[i] = colors[numbers[i]];
      context.putImageData(image, 0, 0);
    }

    function mark(number) {
      for (const [other, row] of rows) row.classList.toggle("ts-marked", other === number);
      if (alone !== (number > 0 ? number : 0)) {
        alone = number > 0 ? number : 0;
        if (numbers) paint();
      }
    }

    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      if (!numbers || x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return;
      const number = numbers[y * canvas.width + x], row = rows.get(number);
      tip.textContent = number && row ? row.querySelector("label").textContent : NONE;
      tip.hidden = false;
      tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth)}px`;
      tip.style.top = `${Math.max(event.clientY - box.top - 30, 0)}px`;
      mark(number);
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; mark(-1); });
    view.querySelector(".ts-opacity input").addEventListener("input", (event) => {
      canvas.style.opacity = event.target.value / 100;
    });
    for (const [number, row] of rows) {
      const box = row.querySelector("input");
      if (!box) continue;
      box.addEventListener("change", paint);
      // What the pointer does over the picture, the keyboard does in the table.
      box.addEventListener("focus", () => mark(number));
      box.addEventListener("blur", () => mark(-1));
    }
    if (map.complete && map.naturalWidth) read();
    else map.addEventListener("load", read);
  }

  function look() {
    for (const view of document.querySelectorAll(".ts-view:not([data-set-up])")) {
      view.dataset.setUp = "yes";
      setUp(view);
    }
  }

  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", look);
})();
