"use strict";
// Cells on maps: each point is two 16-bit numbers and a category. No library, no network.
(() => {
  const data = JSON.parse(document.getElementById("cells-data").textContent);
  const FEW = 20000; // up to here points are discs, above they are pixels
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const u16 = (text) => new Uint16Array(bytes(text).buffer);
  const maps = Object.fromEntries(Object.entries(data.maps).map(([k, v]) => [k, u16(v)]));
  const columns = Object.fromEntries(
    Object.entries(data.columns).map(([k, v]) => [k, { ...v, codes: u16(v.codes) }]));
  const isQuery = data.query ? bytes(data.query) : null;
  const order = new Uint32Array(data.n).map((_, i) => i);
  for (let i = data.n - 1, s = 12345; i > 0; i--) { // the same shuffle each time
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    const j = s % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const panels = [];

  function panelOf(spec) {
    const box = document.querySelector(`[data-panel="${spec.id}"]`);
    const canvas = box.querySelector("canvas"), tip = box.querySelector(".tip");
    const column = columns[spec.column], points = maps[spec.map];
    const layered = spec.layered && isQuery;
    const unknown = column.names.indexOf("unknown");
    const state = { scale: 1, x: 0.5, y: 0.5, only: -1 };
    // Reference below, then the query, then what is unknown.
    const layers = layered ? [[], [], []] : [[]];
    for (const i of order) {
      if (points[2 * i] === 65535) continue;
      layers[!layered || !isQuery[i] ? 0 : column.codes[i] === unknown ? 2 : 1].push(i);
    }
    const nShown = layers.reduce((sum, layer) => sum + layer.length, 0);
    const placeOf = (x, y, w, h) => [
      ((x / 65534 - state.x) * state.scale * 0.94 + 0.5) * w,
      (0.5 - (y / 65534 - state.y) * state.scale * 0.94) * h];
    const place = (i, w, h) => placeOf(points[2 * i], points[2 * i + 1], w, h);
    const radius = (level) => {
      const base = Math.min(4, Math.max(0.7, Math.sqrt(5200 / Math.max(nShown, 1))));
      return (layered && level === 0 ? base * 0.6 : base) * Math.min(2, Math.sqrt(state.scale));
    };

    function colorsOn(background) {
      const mix = (c, share) => c.map((v, k) => Math.round(share * v + (1 - share) * background[k]));
      const full = [...column.colors.map(rgb), [150, 150, 150]];
      const share = background[0] < 128 ? 0.55 : 0.38; // dark swallows more
      return [full.map((c) => mix(c, share)), full, full.map((c) => mix(c, 0.08))];
    }

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      const w = canvas.clientWidth, h = canvas.clientHeight;
      if (!w) return;
      canvas.width = w * ratio; canvas.height = h * ratio;
      const context = canvas.getContext("2d");
      const background = rgb(css("--bg"));
      const [pale, full, hidden] = colorsOn(background);
      // The color of each category in a layer; the last one is of cells without a category.
      const colorsAt = (level) => full.map((c, code) =>
        state.only >= 0 && code !== state.only ? hidden[code] : layered && level === 0 ? pale[code] : c);
      if (nShown > FEW) drawPixels(context, ratio, background, colorsAt);
      else drawDiscs(context, ratio, w, h, colorsAt);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (spec.column === "clusters") drawNumbers(context, w, h);
    }

    function drawNumbers(context, w, h) {
      context.font = "bold 13px system-ui, sans-serif";
      context.textAlign = "center"; context.textBaseline = "middle";
      context.lineWidth = 3; context.lineJoin = "round";
      context.strokeStyle = css("--bg"); context.fillStyle = css("--fg");
      column.names.forEach((name, code) => {
        const middle = (data.middles[spec.map] || {})[name];
        if (!middle || (state.only >= 0 && state.only !== code)) return;
        const [x, y] = placeOf(middle[0], middle[1], w, h);
        context.strokeText(name, x, y);
        context.fillText(name, x, y);
      });
    }

    function drawDiscs(context, ratio, w, h, colorsAt) {
      context.scale(ratio, ratio);
      layers.forEach((layer, level) => {
        const r = radius(level) * (level === 2 ? 1.25 : 1), colors = colorsAt(level);
        for (const i of layer) {
          const [x, y] = place(i, w, h);
          context.beginPath();
          context.arc(x, y, r, 0, 6.2832);
          context.fillStyle = `rgb(${colors[Math.min(column.codes[i], column.colors.length)]})`;
          context.fill();
          if (level === 2) { context.lineWidth = 1.6; context.strokeStyle = css("--fg"); context.stroke(); }
        }
      });
    }

    function drawPixels(context, ratio, background, colorsAt) {
      const W = canvas.width, H = canvas.height, image = context.createImageData(W, H);
      const pixels = new Uint32Array(image.data.buffer);
      const packed = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
      pixels.fill(packed(background));
      const ring = packed(rgb(css("--fg")));
      // As `place`, without an array for each point.
      const kx = state.scale * 0.94 * W / 65534, ky = state.scale * 0.94 * H / 65534;
      const x0 = (0.5 - state.x * state.scale * 0.94) * W, y0 = (0.5 + state.y * state.scale * 0.94) * H;
      const last = column.colors.length;
      const squares = (layer, r, colors) => {
        for (const i of layer) {
          const x = Math.round(x0 + kx * points[2 * i]), y = Math.round(y0 - ky * points[2 * i + 1]);
          const color = colors[Math.min(column.codes[i], last)];
          const top = Math.min(H, y + r), right = Math.min(W, x + r);
          for (let yy = Math.max(0, y - r + 1); yy < top; yy++)
            for (let xx = Math.max(0, x - r + 1); xx < right; xx++) pixels[yy * W + xx] = color;
        }
      };
      layers.forEach((layer, level) => {
        const r = Math.max(1, Math.round(radius(level) * ratio)), colors = colorsAt(level).map(packed);
        // Here the ring of unknown cells goes around them all.
        if (level === 2) squares(layer, r + Math.ceil(ratio), colors.map(() => ring));
        squares(layer, r, colors);
      });
      context.putImageData(image, 0, 0);
    }

    function nearest(px, py) {
      const w = canvas.clientWidth, h = canvas.clientHeight;
      let best = -1, least = 100;
      for (const layer of layers) for (const i of layer) {
        const [x, y] = place(i, w, h), d = (x - px) ** 2 + (y - py) ** 2;
        if (d <= least) { least = d; best = i; }
      }
      return best;
    }

    function name(i) {
      const of = (col) => col.codes[i] < col.names.length ? col.names[col.codes[i]] : "no label";
      const cluster = columns.clusters && column !== columns.clusters ? `, cluster ${of(columns.clusters)}` : "";
      return (isQuery ? `${isQuery[i] ? "query" : "reference"}: ` : "") + of(column) + cluster;
    }

    let waiting = false, drag = null;
    const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
    canvas.addEventListener("pointerdown", (e) => { drag = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointercancel", () => { drag = null; });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("pointermove", (e) => {
      if (drag) {
        state.x -= (e.clientX - drag[0]) / canvas.clientWidth / state.scale / 0.94;
        state.y += (e.clientY - drag[1]) / canvas.clientHeight / state.scale / 0.94;
        drag = [e.clientX, e.clientY];
        return later();
      }
      const i = nearest(e.offsetX, e.offsetY);
      tip.hidden = i < 0;
      if (i < 0) return;
      tip.textContent = name(i);
      tip.style.left = `${Math.min(e.offsetX + 12, canvas.clientWidth - tip.offsetWidth - 4)}px`;
      tip.style.top = `${canvas.offsetTop + Math.max(e.offsetY - 28, 2)}px`;
    });
    const zoom = (factor) => {
      if (factor) state.scale = Math.min(60, Math.max(1, state.scale * factor));
      if (!factor || state.scale === 1) Object.assign(state, { scale: 1, x: 0.5, y: 0.5 });
      later();
    };
    canvas.addEventListener("wheel", (e) => { // the wheel alone scrolls the page
      if (e.ctrlKey) { e.preventDefault(); zoom(Math.exp(-e.deltaY / 200)); }
    }, { passive: false });
    box.querySelectorAll("[data-zoom]").forEach((b) => b.addEventListener("click", () => zoom(Number(b.dataset.zoom))));
    legend(spec, column, layered, unknown, state, later);
    new ResizeObserver(later).observe(canvas);
    draw();
    return later;
  }

  function legend(spec, column, layered, unknown, state, later) {
    const place = document.querySelector(`[data-legend="${spec.id}"]`);
    const present = new Set(column.codes);
    column.names.forEach((name, code) => {
      if (!present.has(code)) return;
      const button = document.createElement("button"), dot = document.createElement("i");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      dot.style.background = column.colors[code];
      if (layered && code === unknown) dot.className = "ring";
      button.append(dot, name);
      button.addEventListener("click", () => {
        state.only = state.only === code ? -1 : code;
        place.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button && state.only >= 0)));
        later();
      });
      place.append(button);
    });
  }

  for (const spec of data.panels) panels.push(panelOf(spec));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => panels.forEach((p) => p()));
  document.body.dataset.drawn = String(panels.length);
})();
