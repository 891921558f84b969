// What all views use: making elements, telling numbers, and one compile with what is selected in it.
// Names come from a model, which may be hostile: they only ever become text nodes and attribute values of our own.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else if (value === true && !key.startsWith("aria-")) node.setAttribute(key, "");
    else if (value != null && (value !== false || key.startsWith("aria-"))) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter(child => child != null && child !== false));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const name = (text, tag = "span") => el(tag, {class: "name", title: text}, text);
const button = (text, onclick, attributes = {}) => el("button", {type: "button", onclick, ...attributes}, text);

function scaled(value, units, base = 1000) {
  let unit = 0;
  while (Math.abs(value) >= base && unit < units.length - 1) { value /= base; unit++; }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
const bytesText = count => scaled(count, ["B", "kB", "MB", "GB"]);
const flopsText = count => count ? scaled(count, ["", "k", "M", "G", "T", "P"]) : "–";
const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : what.endsWith("ch") ? "es" : "s"}`;

// A time is one number of microseconds, or a range of them.
const middle = us => typeof us === "number" ? us : (us.low + us.high) / 2;
const timeText = us => `${typeof us === "number" ? digits(us) : `${digits(us.low)}–${digits(us.high)}`} µs`;
const msText = ms => ms >= 1 ? `${digits(ms)} ms` : timeText(1e3 * ms);
const digits = us => us >= 100 ? us.toFixed(0) : us >= 10 ? us.toFixed(1) : us.toFixed(2);

// One compile: its facts, by what they are looked up, and the region and launch that are selected, if any.
class Compile {
  constructor(facts) {
    Object.assign(this, facts);
    this.launches = facts.schedule.launches;
    // A box of the steps: its name, label, shape and operator, and the ONNX nodes that it stands for.
    this.boxes = facts.steps.boxes.map(box => {
      const [name, label, shape, operator, ...nodes] = box.map(index => facts.steps.texts[index]);
      return {name, label, shape, operator, nodes};
    });
    this.launches.forEach((launch, index) => {
      launch.index = index;
      launch.time = middle(launch.us);
      launch.bytes = launch.read_bytes + launch.written_bytes;
    });
    this.regions = new Map(facts.graph.nodes.map(node => [node.name, {...node, launches: []}]));
    for (const launch of this.launches) this.regions.get(launch.node).launches.push(launch);
    this.regionOf = new Map(); // by ONNX node
    for (const region of this.regions.values()) for (const node of region.onnx_nodes) this.regionOf.set(node, region.name);
    this.measuredBy = new Map((facts.measured?.regions ?? []).map(each => [each.region, each.ms]));
    const kernels = [...new Set(this.launches.map(launch => launch.kernel))];
    const busy = kernel => this.launches.reduce((sum, launch) => sum + (launch.kernel === kernel ? launch.time : 0), 0);
    this.kernels = kernels.sort((a, b) => busy(b) - busy(a));
    this.selected = {region: null, launch: null};
    this.watchers = [];
  }
  tint(kernel) { return `var(--k${Math.min(this.kernels.indexOf(kernel), 9)})`; }
  onSelect(watcher) { this.watchers.push(watcher); }
  select(region, launch = null) {
    if (region !== null && !this.regions.has(region)) return;
    if (launch === null && region !== null) launch = this.regions.get(region).launches[0]?.index ?? null;
    if (region === this.selected.region && launch === this.selected.launch) return;
    this.selected = {region, launch};
    for (const watcher of this.watchers) watcher(this.selected);
  }
  selectLaunch(index) { this.select(this.launches[index].node, index); }
  // The launch after or before the selected one, in the order they run.
  step(by) {
    const from = this.selected.launch ?? (by > 0 ? -1 : this.launches.length);
    if (this.launches.length) this.selectLaunch(Math.max(0, Math.min(this.launches.length - 1, from + by)));
  }
}

function section(id, title, note, ...children) {
  const head = el("div", {class: "head"}, el("h2", {}, title, note && el("small", {}, note)));
  return Object.assign(el("section", {id, "aria-label": title}, head, ...children), {head});
}

// Buttons of which one is pressed.
function choice(names, chosen, pick) {
  const buttons = names.map(each => button(each, () => set(each), {"aria-pressed": each === chosen}));
  function set(which) {
    names.forEach((each, i) => buttons[i].setAttribute("aria-pressed", each === which));
    pick(which);
  }
  return el("div", {class: "group", role: "group"}, buttons);
}

function legend(compile) {
  const shown = compile.kernels.map((kernel, i) =>
    el("span", {}, swatch(`var(--k${Math.min(i, 9)})`), kernel));
  return el("div", {class: "legend"}, shown);
}
function swatch(colour, kind = "") {
  const mark = el("i", {class: kind});
  mark.style.background = colour;
  return mark;
}
