// A graph that can be moved, zoomed and walked by keyboard. Where boxes and edges are was reckoned in Python; of a large
// graph only what is in view, and some above and below it, is drawn.

const ROW = 62, HEIGHT = 38; // pixels from layer to layer, and of a box

class GraphView {
  // drawing: a step of `facts.steps`. boxes: all of a compile. look(i) gives {classes, heat, tint, note} of its box i.
  constructor(drawing, boxes, {look = () => ({}), pick = () => {}, label}) {
    this.drawing = drawing;
    this.boxes = drawing.boxes.map(index => boxes[index]);
    this.look = look;
    this.pick = pick;
    this.layers = 1 + Math.max(0, ...drawing.layer);
    this.x = 0; this.y = 0; this.scale = 1;
    this.classes = new Map(); // box -> Set of 'chosen', 'found'
    this.scene = svg("g");
    this.svg = svg("svg", {tabindex: 0, role: "application", "aria-roledescription": "graph", "aria-label": label},
      this.scene);
    this.map = el("canvas", {title: "the whole graph: click to go there", "aria-hidden": true});
    const zoom = el("div", {class: "zoom group"}, button("+", () => this.zoom(1.4), {title: "zoom in (+)"}),
      button("−", () => this.zoom(1 / 1.4), {title: "zoom out (−)"}), button("fit", () => this.fit(), {title: "fit (0)"}));
    this.root = el("div", {class: "graph card"}, this.svg, this.map, zoom);
    this.listen();
    new ResizeObserver(() => this.resized()).observe(this.root);
    addEventListener("theme", () => this.redraw());
  }
  top(i) { return this.drawing.layer[i] * ROW + (ROW - HEIGHT) / 2; }

  resized() {
    const {width, height} = this.svg.getBoundingClientRect();
    if (!width || !height) return;
    if (!this.size) { // as large as can be read, the inputs at the top
      this.scale = Math.min(1, Math.max(0.75, width / this.drawing.width));
      this.x = (width - this.drawing.width * this.scale) / 2;
      const first = this.drawing.layer.indexOf(Math.min(...this.drawing.layer));
      if (first >= 0) this.x = width / 2 - this.drawing.x[first] * this.scale;
    }
    this.size = {width, height};
    this.map.width = this.map.clientWidth * devicePixelRatio;
    this.map.height = this.map.clientHeight * devicePixelRatio;
    if (this.waiting != null) this.show(this.waiting);
    this.waiting = null;
    this.redraw();
  }
  // What is in view has changed, or how it looks.
  redraw() { this.drawn = null; this.moved(); }
  moved() {
    if (!this.size) return;
    const tall = this.layers * ROW * this.scale, {width, height} = this.size;
    this.y = Math.min(height / 2, Math.max(height / 2 - tall, this.y));
    this.x = Math.min(width - 40, Math.max(40 - this.drawing.width * this.scale, this.x));
    this.scene.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
    const first = -this.y / this.scale / ROW, last = (height - this.y) / this.scale / ROW, span = last - first;
    if (!this.drawn || first < this.drawn.first || last > this.drawn.last || this.drawn.scale / this.scale > 2) {
      this.drawn = {first: first - span, last: last + span, scale: this.scale};
      this.draw();
    }
    this.scene.classList.toggle("far", this.scale < 0.3);
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawMap());
  }
  draw() {
    const {layer, edges, x} = this.drawing, {first, last} = this.drawn, chosen = this.chosen();
    const paths = svg("g", {class: "edges"}), boxes = svg("g");
    for (const edge of edges) {
      const [from, to] = edge;
      if (layer[to] < first || layer[from] > last) continue;
      let at = [x[from], this.top(from) + HEIGHT], d = `M${at[0]} ${at[1]}`;
      const go = (nextX, nextY) => {
        const bend = (nextY - at[1]) / 2;
        d += nextX === at[0] ? `V${nextY}` : `C${at[0]} ${at[1] + bend} ${nextX} ${nextY - bend} ${nextX} ${nextY}`;
        at = [nextX, nextY];
      };
      for (let i = 2; i < edge.length; i += 2) { // past the boxes of each layer between: straight down
        go(edge[i], edge[i + 1] * ROW + (ROW - HEIGHT) / 2);
        go(edge[i], at[1] + HEIGHT);
      }
      go(x[to], this.top(to));
      paths.append(svg("path", {d, class: from === chosen || to === chosen ? "chosen" : null}));
    }
    for (let i = 0; i < layer.length; i++) if (layer[i] >= first && layer[i] <= last) boxes.append(this.box(i));
    this.scene.replaceChildren(paths, boxes);
  }
  box(i) {
    const {label, shape, operator, nodes} = this.boxes[i], width = this.drawing.widths[i];
    const look = this.look(i), near = this.scale >= 0.3 || this.drawn.scale >= 0.3;
    const classes = ["box", ...(look.classes ?? []), ...(this.classes.get(i) ?? [])];
    if (!nodes.length && operator.startsWith("an ")) classes.push("end");
    const found = svg("g", {class: classes.join(" "), "data-box": i,
      transform: `translate(${this.drawing.x[i] - width / 2} ${this.top(i)})`},
    svg("rect", {width, height: HEIGHT, rx: 5}));
    if (look.heat != null) fill(found, {"--heat": `${look.heat}%`, "data-heat": look.heat > 20}, []);
    if (look.tint) fill(found, {"--tint": look.tint}, []);
    if (!near) return found;
    found.append(svg("title", {}, [...nodes, operator].join("\n")), svg("text", {x: 10, y: 16}, label), svg("text", {x: 10, y: 31, class: "shape"}, shape));
    if (look.note) found.append(svg("text", {x: width - 10, y: 31, "text-anchor": "end", class: "note"}, look.note));
    return found;
  }
  drawMap() {
    const canvas = this.map, context = canvas.getContext("2d"), {x, layer, widths, width} = this.drawing;
    if (!canvas.width) return;
    const down = canvas.height / this.layers, across = canvas.width / width;
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < x.length; i++) {
      const look = this.look(i), mark = [...(this.classes.get(i) ?? []), ...(look.classes ?? [])];
      const key = mark.includes("chosen") ? "accent" : ["found", "gone", "new", "changed"].find(each => mark.includes(each));
      context.fillStyle = resolved(key ?? (look.tint ? look.tint.slice(6, -1) : look.heat != null ? "hot" : "edge"));
      context.globalAlpha = key || look.heat == null || look.tint ? 1 : 0.2 + look.heat / 90;
      context.fillRect((x[i] - widths[i] / 2) * across, layer[i] * down, Math.max(2, widths[i] * across), Math.max(1, down * 0.6));
      if (key === "accent" || key === "found") context.fillRect(0, layer[i] * down, canvas.width * 0.12, Math.max(2, down * 0.6));
    }
    context.globalAlpha = 1;
    const perPixel = canvas.height / (this.layers * ROW * this.scale);
    context.strokeStyle = resolved("accent");
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeRect(1, -this.y * perPixel, canvas.width - 2, Math.max(4, this.size.height * perPixel));
  }

  // ---- moving

  zoom(by, at = {x: this.size.width / 2, y: this.size.height / 2}) {
    const scale = Math.min(2.5, Math.max(this.whole() * 0.8, this.scale * by)), real = scale / this.scale;
    this.x = at.x - (at.x - this.x) * real;
    this.y = at.y - (at.y - this.y) * real;
    this.scale = scale;
    this.moved();
  }
  whole() { return Math.min(1, this.size.width / this.drawing.width, this.size.height / (this.layers * ROW)); }
  fit() {
    this.scale = this.whole();
    this.x = (this.size.width - this.drawing.width * this.scale) / 2;
    this.y = (this.size.height - this.layers * ROW * this.scale) / 2;
    this.redraw();
  }
  // Brings boxes into view, their size as it is, but not too small to be read; of too many, the first ones.
  show(boxes) {
    if (!boxes.length) return;
    if (!this.size) { this.waiting = boxes; return; }
    const {x, widths} = this.drawing, {width, height} = this.size;
    const left = Math.min(...boxes.map(i => x[i] - widths[i] / 2)), right = Math.max(...boxes.map(i => x[i] + widths[i] / 2));
    const top = Math.min(...boxes.map(i => this.top(i))), bottom = Math.max(...boxes.map(i => this.top(i) + HEIGHT));
    this.scale = Math.max(0.5, Math.min(Math.max(this.scale, 0.6), width / (right - left + 40)));
    const inside = (at, low, high, room) => at + low * this.scale >= 2 && at + high * this.scale <= room - 2;
    if (!inside(this.x, left, right, width)) this.x = width / 2 - (left + right) / 2 * this.scale;
    if (!inside(this.y, top, bottom, height - 44)) this.y = height / 2 - (Math.min(bottom, top + height) + top) / 2 * this.scale;
    this.redraw();
  }
  listen() {
    let drag = null;
    this.svg.addEventListener("pointerdown", event => {
      drag = {x: event.clientX - this.x, y: event.clientY - this.y, far: 0, box: event.target.closest?.(".box")};
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", event => {
      if (!drag) return;
      const x = event.clientX - drag.x, y = event.clientY - drag.y;
      drag.far += Math.abs(x - this.x) + Math.abs(y - this.y);
      if (drag.far > 4) { this.x = x; this.y = y; this.moved(); }
    });
    this.svg.addEventListener("pointerup", () => {
      if (drag && drag.far <= 4) this.pick(drag.box ? Number(drag.box.dataset.box) : null);
      drag = null;
    });
    this.svg.addEventListener("pointercancel", () => { drag = null; });
    this.svg.addEventListener("wheel", event => { // the page scrolls, unless the graph was entered
      const focused = document.activeElement === this.svg;
      if (!event.ctrlKey && !event.metaKey && !focused) return;
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) {
        const at = this.svg.getBoundingClientRect();
        this.zoom(Math.exp(-event.deltaY / 300), {x: event.clientX - at.left, y: event.clientY - at.top});
      } else { this.x -= event.deltaX; this.y -= event.deltaY; this.moved(); }
    }, {passive: false});
    this.svg.addEventListener("keydown", event => this.key(event));
    const jump = event => {
      if (event.type === "pointermove" && !event.buttons) return;
      this.y = this.size.height / 2 - event.offsetY / this.size.height * this.layers * ROW * this.scale;
      this.moved();
    };
    this.map.addEventListener("pointerdown", jump);
    this.map.addEventListener("pointermove", jump);
  }
  key(event) {
    const walks = {ArrowDown: [1, 0], ArrowUp: [0, 1]};
    if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.fit();
    else if (event.key in walks || event.key === "ArrowLeft" || event.key === "ArrowRight") this.walk(event.key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  // From the chosen box along an edge, or to its neighbour in the layer.
  walk(key) {
    const from = this.chosen(), {layer, x, edges} = this.drawing;
    if (from == null) { this.pick(0); return; }
    const near = candidates => candidates.sort((a, b) => Math.abs(x[a] - x[from]) - Math.abs(x[b] - x[from]))[0];
    const side = key === "ArrowLeft" ? -1 : 1;
    const to = key === "ArrowDown" ? near(edges.filter(edge => edge[0] === from).map(edge => edge[1]))
      : key === "ArrowUp" ? near(edges.filter(edge => edge[1] === from).map(edge => edge[0]))
        : near(layer.map((_, i) => i).filter(i => layer[i] === layer[from] && (x[i] - x[from]) * side > 0));
    if (to != null) { this.pick(to); this.show([to]); }
  }
  chosen() { for (const [i, classes] of this.classes) if (classes.has("chosen")) return i; return null; }
  // Boxes that have a class from now on, and no others.
  mark(kind, boxes) {
    for (const classes of this.classes.values()) classes.delete(kind);
    for (const i of boxes) this.classes.set(i, (this.classes.get(i) ?? new Set()).add(kind));
    this.redraw();
  }
}

// A canvas knows no light-dark(): the colour that the page shows now, until the theme changes.
const resolvedColours = new Map();
function resolved(name) {
  if (!resolvedColours.has(name)) {
    const probe = el("span", {hidden: true});
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    resolvedColours.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return resolvedColours.get(name);
}
