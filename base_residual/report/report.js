"use strict";

const given = (id) => JSON.parse(document.getElementById(id).textContent);

// Charts. Their text and grid take the page's own colours, in the dark and on paper too, and the legend hides curves.

const chartColours = new CSSStyleSheet();
chartColours.replaceSync(`
  [fill="#444444"] { fill: var(--ink); }
  [stroke="#444444"] { stroke: var(--soft); }
  [stroke="#e5e5e5"] { stroke: var(--rule); }
`);

function recolour(element) {
  for (const child of element.querySelectorAll("*")) {
    if (child.shadowRoot) {
      child.shadowRoot.adoptedStyleSheets = [...child.shadowRoot.adoptedStyleSheets, chartColours];
      recolour(child.shadowRoot);
    }
  }
}

async function drawCharts() {
  for (const item of given("charts")) {
    await Bokeh.embed.embed_item(item);
    recolour(document.getElementById(item.target_id));
  }
  for (const box of document.querySelectorAll("[data-line]")) {
    const curves = Bokeh.documents.flatMap((page) => page.roots()[0].renderers).filter((one) => one.name === box.dataset.line);
    box.addEventListener("change", () => curves.forEach((one) => { one.visible = box.checked; }));
  }
}

// Rooms.

const PARTS = ["base", "final", "truth"];
const NAMES = { base: "base", final: "final", truth: "ground truth" };
const { rooms, side, step, split, palettes, camera } = given("gallery");
const metres = (value) => `${value.toFixed(2)}\u00a0m`;
const signed = (value) => `${value < 0 ? "−" : "+"}${metres(Math.abs(value))}`;

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: side * side }, (_, pixel) => view.getUint16(2 * pixel, true) * step);
}

function paint(canvas, colourOf, width = side, height = side) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) image.data.set([...colourOf(pixel), 255], 4 * pixel);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const colour = (palette, share) => palette[Math.max(0, Math.min(255, Math.floor(share * 256)))];

class Room {
  constructor(card) {
    this.card = card;
    this.data = rooms[card.dataset.room];
    this.wipe = card.querySelector(".wipe");
    this.slider = card.querySelector(".slider");
    this.reading = card.querySelector(".reading");
    this.spot = card.querySelector(".spot");
    this.truth = unpacked(this.data.truth);
    const space = card.querySelector(".space");
    this.space = space && new Space(space, this);
    paint(card.querySelector(".bar"), (pixel) => palettes.depth[pixel], 256, 1);
    this.slider.addEventListener("input", () => this.draw());
    for (const button of card.querySelectorAll("button.part")) {
      button.addEventListener("click", () => this.go(PARTS.indexOf(button.dataset.part)));
    }
    this.listen(card.querySelector(".view"));
  }

  // Another run's prediction of the same room. A plain network has one depth map and no base.
  show(run) {
    const { base, final, remainder, reach, rmse, rank } = this.data.runs[run];
    this.rmse = rmse;
    this.rank = rank;
    this.maps = { final: unpacked(final), truth: this.truth };
    if (base) this.maps.base = unpacked(base);
    this.slider.min = base ? 0 : 1;
    const place = { [Math.ceil(split / 2)]: " · median", [split]: " · worst", 1: " · best" }[rank] ?? "";
    this.card.querySelector(".score").textContent = `rmse ${rmse.toFixed(3)} m · rank ${rank}/${split}${place}`;
    for (const part of this.card.querySelectorAll(".part")) {
      const name = part.dataset.part;
      part.hidden = !base && (name === "base" || name === "residual");
      if (part.hidden) continue;
      if (name === "residual") {
        const change = (pixel) => this.maps.final[pixel] - this.maps.base[pixel];
        paint(part.querySelector("canvas"), (pixel) => colour(palettes.signed, 0.5 + change(pixel) / reach / 2));
        part.querySelector("span").textContent = `residual ±${metres(reach)}`;
      } else {
        paint(part.querySelector("canvas"), (pixel) => this.colourOf(name, pixel));
      }
    }
    this.draw();
    this.read();
    this.space?.show(this.maps, remainder && unpacked(remainder));
  }

  colourOf(part, pixel) {
    const depth = this.maps[part][pixel];
    return part === "truth" && depth === 0 ? palettes.hole : colour(palettes.depth, (depth - this.data.low) / (this.data.high - this.data.low));
  }

  // At 0 the base, at 1 the final depth, at 2 the ground truth; in between, the later map to the left of the cut.
  draw() {
    const value = Number(this.slider.value);
    const first = Math.min(1, Math.floor(value));
    const share = value - first;
    const [under, over] = [PARTS[first], PARTS[first + 1]];
    const columns = Math.round(share * side);
    paint(this.wipe, (pixel) => this.colourOf(pixel % side < columns ? over : under, pixel));
    const said = share === 0 ? NAMES[under] : share === 1 ? NAMES[over] : `${NAMES[over]} over ${Math.round(100 * share)} % of ${NAMES[under]}`;
    this.slider.setAttribute("aria-valuetext", said);
    this.card.querySelector(".view").style.setProperty("--cut", `${100 * share}%`);
    this.card.querySelector(".cut").hidden = share === 0 || share === 1;
    this.card.querySelector(".tag.left").textContent = share > 0 ? NAMES[over] : "";
    this.card.querySelector(".tag.right").textContent = share < 1 ? NAMES[under] : "";
    for (const button of this.card.querySelectorAll("button.part")) {
      button.setAttribute("aria-pressed", String(PARTS.indexOf(button.dataset.part) === value));
    }
  }

  go(value) {
    this.slider.value = value;
    this.draw();
  }

  // A pointer reads depths, and drags the cut while it is down; the arrow keys walk from pixel to pixel.
  listen(view) {
    let first = 0;
    const place = (event) => {
      const box = this.wipe.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.max(0, Math.min(1, share)));
    };
    const read = (event) => {
      const [x, y] = place(event).map((share) => Math.min(side - 1, Math.floor(share * side)));
      this.at = { x, y };
      this.read();
    };
    view.addEventListener("pointerdown", (event) => {
      first = Math.min(1, Math.floor(Number(this.slider.value)));
      view.setPointerCapture(event.pointerId);
      read(event);
    });
    view.addEventListener("pointermove", (event) => {
      if (event.buttons === 1) this.go(first + place(event)[0]);
      read(event);
    });
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.wipe.addEventListener("keydown", (event) => {
      if (!moves[event.key]) return;
      event.preventDefault();
      const [x, y] = moves[event.key];
      const from = this.at ?? { x: side >> 1, y: side >> 1 };
      this.at = { x: Math.max(0, Math.min(side - 1, from.x + x)), y: Math.max(0, Math.min(side - 1, from.y + y)) };
      this.read();
    });
    this.wipe.addEventListener("focus", () => {
      this.at ??= { x: side >> 1, y: side >> 1 };
      this.read();
    });
  }

  read() {
    if (!this.at) return;
    const { x, y } = this.at;
    const pixel = y * side + x;
    const { base, final, truth } = this.maps;
    const measured = truth[pixel] > 0;
    const said = base ? [`base ${metres(base[pixel])}`, `residual ${signed(final[pixel] - base[pixel])}`] : [];
    said.push(`final ${metres(final[pixel])}`, measured ? `ground truth ${metres(truth[pixel])}` : "not measured here");
    if (measured) said.push(`error ${signed(final[pixel] - truth[pixel])}`);
    this.reading.textContent = said.join(" · ");
    this.spot.hidden = false;
    this.spot.style.left = `${(100 * (x + 0.5)) / side}%`;
    this.spot.style.top = `${(100 * (y + 0.5)) / side}%`;
  }
}

// The ways of the pixels at a depth of one metre: forward, left and up, as in REP 103.
const rays = camera && Array.from({ length: side * side }, (_, pixel) => {
  const [[across, upward], along] = camera;
  const centre = (place) => ((place + 0.5) / side) * 2 - 1;
  const slope = (degrees) => Math.tan((degrees * Math.PI) / 360);
  const ray = [1, -centre(pixel % side) * slope(across), -centre(Math.floor(pixel / side)) * slope(upward)];
  const length = along === "axis" ? 1 : Math.hypot(...ray);
  return ray.map((part) => part / length);
});

// A room's points in space, seen from behind and above the robot until somebody turns them.
class Space {
  constructor(canvas, room) {
    Object.assign(this, { canvas, room, yaw: -0.5, pitch: 0.5 });
    canvas.width = 640;
    canvas.height = 480;
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1) this.turn(-event.movementX / 150, event.movementY / 150);
    });
    const turns = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    canvas.addEventListener("keydown", (event) => {
      if (!turns[event.key]) return;
      event.preventDefault();
      this.turn(...turns[event.key]);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(0, Math.min(Math.PI / 2, this.pitch + pitch));
    this.draw();
  }

  show(maps, remainder) {
    const reach = [maps.final, maps.truth].flatMap((depths) => [...depths]).reduce((most, depth) => Math.max(most, depth), 1);
    Object.assign(this, { maps, remainder, reach });
    this.draw();
  }

  // From metres to the canvas: turned around the middle of what lies ahead.
  place([forward, left, up]) {
    const [x, y] = [forward - this.reach / 2, left];
    const ahead = x * Math.cos(this.yaw) + y * Math.sin(this.yaw);
    const aside = y * Math.cos(this.yaw) - x * Math.sin(this.yaw);
    const high = up * Math.cos(this.pitch) + ahead * Math.sin(this.pitch);
    const zoom = this.canvas.height / (1.8 * this.reach);
    return [this.canvas.width / 2 - aside * zoom, this.canvas.height / 2 - high * zoom];
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    const at = (pixel, depth) => this.place(rays[pixel].map((part) => part * depth));
    const dots = (depths, colourOf, size) => depths.forEach((depth, pixel) => {
      if (depth === 0) return;
      pen.fillStyle = colourOf(pixel);
      const [x, y] = at(pixel, depth);
      pen.fillRect(x - size / 2, y - size / 2, size, size);
    });
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.remainder) {
      pen.strokeStyle = "rgb(120 160 220 / 22%)";
      pen.lineWidth = 1;
      pen.beginPath();
      const every = Math.max(2, side >> 4); // lines on every pixel would hide the points
      this.remainder.forEach((off, pixel) => {
        if (pixel % every || Math.floor(pixel / side) % every) return;
        const depth = this.maps.final[pixel];
        pen.moveTo(...at(pixel, Math.max(0, depth - off)));
        pen.lineTo(...at(pixel, depth + off));
      });
      pen.stroke();
    }
    dots(this.maps.truth, () => "rgb(128 128 128 / 60%)", 2);
    dots(this.maps.final, (pixel) => `rgb(${this.room.colourOf("final", pixel).join(" ")})`, 3);
    const [x, y] = this.place([0, 0, 0]);
    pen.fillStyle = "#d33";
    pen.beginPath();
    pen.moveTo(x, y - 10);
    pen.lineTo(x - 8, y + 6);
    pen.lineTo(x + 8, y + 6);
    pen.fill();
  }
}

function openGallery() {
  const cards = [...document.querySelectorAll(".room")].map((card) => new Room(card));
  const orders = {
    best: (room) => room.rank,
    median: (room) => Math.abs(room.rank - (split + 1) / 2),
    worst: (room) => -room.rank,
  };
  const buttons = [...document.querySelectorAll("[data-order]")];
  const all = document.getElementById("all");
  const sort = () => {
    const key = orders[buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.order];
    document.querySelector(".rooms").append(...[...cards].sort((a, b) => key(a) - key(b)).map((room) => room.card));
  };
  const show = () => {
    const run = document.querySelector("[name=run]:checked").value;
    cards.forEach((room) => room.show(run));
    all.min = cards[0].slider.min;
    sort();
  };
  buttons.forEach((button) => button.addEventListener("click", () => {
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    sort();
  }));
  document.querySelectorAll("[name=run]").forEach((choice) => choice.addEventListener("change", show));
  all.addEventListener("input", () => cards.forEach((room) => room.go(all.value)));
  show();
}

drawCharts().then(() => document.documentElement.setAttribute("data-charts", "drawn"));
if (rooms.length) openGallery();
