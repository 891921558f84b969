// The page: its parts in order, what selects what, and the keys.

const title = compile => `${compile.net.model || "a model"}, ${compile.net.dtype}, batch ${compile.batch}`;

// Figures of a compile: what each is, how it is told, and a number to compare.
function cards({net, cost, device, measured}) {
  const bytes = net.bytes_per_image;
  return [
    ...(measured ? [[`measured on ${measured.backend}`, msText(measured.ms), measured.ms]] : []),
    ...(measured?.whole_ms ? [["measured as one CUDA graph", msText(measured.whole_ms), measured.whole_ms]] : []),
    ["operators", `${net.nodes} → ${net.fused_nodes}`, net.fused_nodes],
    ["launches", `${net.launches}`, net.launches],
    ["waves", `${cost.waves}`, cost.waves],
    [`predicted on an ${device}`, timeText(cost.predicted_us), middle(cost.predicted_us)],
    ["one launch after another", timeText(cost.sequential_us), middle(cost.sequential_us)],
    ["roofline", timeText(cost.roofline_us), middle(cost.roofline_us)],
    ["bytes an image", `${bytesText(bytes.before)} → ${bytesText(bytes.after)}`, bytes.after],
    ["arena", bytesText(net.arena_bytes), net.arena_bytes],
    ["weights", bytesText(net.weight_bytes), net.weight_bytes],
    ["without a kernel", plural(net.fallbacks.length, "node"), net.fallbacks.length],
  ];
}

function graphOf(compile) {
  const {boxes} = compile, step = compile.steps.steps.at(-1);
  const regionAt = step.boxes.map(box => boxes[box].name).map(each => compile.regions.has(each) ? each : null);
  const at = new Map(regionAt.map((region, i) => [region, i]));
  const sums = regionAt.map(region => {
    const launches = region === null ? [] : compile.regions.get(region).launches;
    const sum = key => launches.reduce((total, launch) => total + launch[key], 0);
    const measured = region === null ? null : compile.measuredBy.get(region);
    if (!launches.length && !measured) return null;
    const range = {low: 0, high: 0};
    for (const launch of launches) for (const end of ["low", "high"]) range[end] += launch.us[end];
    return {range, time: sum("time"), bytes: sum("bytes"), measured: measured ?? 0, kernel: launches[0]?.kernel ?? ""};
  });
  const most = key => Math.max(...sums.map(each => each?.[key] ?? 0), 1e-9);
  const largest = {time: most("time"), bytes: most("bytes"), measured: most("measured")};
  const told = {time: value => `${digits(value)} µs`, bytes: bytesText, measured: msText};
  let mode = "time";
  const look = i => {
    const sum = sums[i];
    if (!sum) return {};
    if (mode === "kernel") return {classes: ["kernel"], tint: compile.tint(sum.kernel), heat: 26, note: sum.kernel};
    return {heat: Math.round(Math.sqrt(sum[mode] / largest[mode]) * 70), note: mode === "time" ? timeText(sum.range) : told[mode](sum[mode])};
  };
  const view = new GraphView(step, boxes, {look, label: "the fused graph: arrows walk it, + and − zoom", pick: i => compile.select(i === null ? null : regionAt[i])});
  compile.onSelect(({region}) => {
    const i = at.get(region);
    view.mark("chosen", region === null || i == null ? [] : [i]);
    if (region !== null && i != null) view.show([i]);
  });
  return Object.assign(view, {
    colour: which => { mode = which; view.redraw(); },
    find: regions => { view.mark("found", regions.map(region => at.get(region))); view.show(regions.slice(0, 1).map(region => at.get(region))); },
    most: which => told[which](largest[which]),
  });
}

function graphSection(compile) {
  const view = graphOf(compile), key = el("div", {class: "legend"});
  const pick = which => {
    const ramp = swatch("linear-gradient(90deg, var(--box), color-mix(in oklab, var(--hot) 70%, var(--box)))", "ramp");
    view.colour(which);
    key.replaceChildren(...(which === "kernel" ? legend(compile).childNodes : [el("span", {}, "0 ", ramp, view.most(which))]));
  };
  const found = section("graph", "Fused graph", "a box is a region: what became one operator; drag to move, Ctrl and wheel to zoom", view.root);
  const first = compile.measured ? "measured" : "time";
  const colours = choice([...(compile.measured ? ["measured"] : []), "time", "bytes", "kernel"], first, pick);
  found.head.append(el("span", {class: "space"}), el("span", {class: "nowrap"}, "coloured by ", colours));
  view.root.before(key);
  pick(first);
  return Object.assign(found, {view});
}

function hintSection(compile) {
  const shown = compile.hints.map(({title, do: what, nodes, details}) => el("details", {},
    el("summary", {}, title, el("small", {}, plural(nodes.length, "region"))), el("p", {}, what),
    el("ul", {}, nodes.map((node, i) => el("li", {}, button(node, () => compile.select(node), {class: "link name"}), el("small", {}, details[i]))))));
  const none = el("p", {class: "card story"}, "Nothing stands out.");
  return section("hints", "Hints", "what may be worth a look, and what to do", shown.length ? el("div", {class: "hints card"}, shown) : none);
}

function viewsOf(compile) {
  const graph = graphSection(compile);
  const figures = el("div", {class: "cards"}, cards(compile).map(([what, told]) => el("div", {class: "card"}, el("b", {}, told), el("small", {}, what))));
  const root = el("div", {class: "columns"}, el("div", {},
    figures, hintSection(compile), graph, timeline(compile), el("div", {class: "two"}, arena(compile), roofline(compile)),
    launchTable(compile), passes(compile)), panel(compile));
  return {root, find: regions => graph.view.find(regions)};
}

const all = JSON.parse(document.getElementById("facts").textContent).compiles.map(each => new Compile(each));
let current = null;

function show(compile) {
  current = compile;
  document.title = `${compile.net.model || "model"} · optgraph`;
  document.querySelector("h1").textContent = compile.net.model || "a model";
  document.querySelector("header p").textContent =
    `${compile.net.dtype}, batch ${compile.batch}${compile.net.size ? `, ${compile.net.size}` : ""}; ${compile.measured ? `measured on ${compile.measured.backend}, ` : ""}predicted for an ${compile.device}${compile.measured ? "" : ", not measured"}`;
  document.querySelector("main > .columns")?.remove();
  compile.views ??= viewsOf(compile);
  document.querySelector("main").append(compile.views.root);
  search(compile, document.querySelector(".search"), compile.views.find);
  const links = [...compile.views.root.querySelectorAll("section")].map(each => el("a", {href: `#${each.id}`}, each.getAttribute("aria-label")));
  document.querySelector("nav").replaceChildren(...links);
}

if (all.length > 1) {
  const names = all.map((compile, i) => `${"AB"[i]}: ${title(compile)}`);
  const tabs = el("div", {class: "head"}, el("h2", {}, "Each by itself"), choice(names, names[0], which => show(all[names.indexOf(which)])));
  document.querySelector("main").append(comparison(all), el("section", {}, tabs));
}
show(all[0]);

const header = document.querySelector("header");
new ResizeObserver(() => document.documentElement.style.setProperty("--top", `${header.offsetHeight}px`)).observe(header);

const dark = matchMedia("(prefers-color-scheme: dark)");
const repaint = () => { resolvedColours.clear(); dispatchEvent(new Event("theme")); };
dark.onchange = repaint;
document.querySelector(".theme").onclick = () => {
  const {dataset} = document.documentElement, was = dataset.theme ?? (dark.matches ? "dark" : "light");
  dataset.theme = was === "dark" ? "light" : "dark";
  repaint();
};
document.addEventListener("keydown", event => {
  if (event.target.matches?.("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { document.querySelector(".search input").focus(); event.preventDefault(); }
  else if (event.key === "j") current.step(1);
  else if (event.key === "k") current.step(-1);
  else if (event.key === "Escape") current.select(null);
});
const keys = [["/", "find"], ["j", "next launch"], ["k", "launch before"], ["Esc", "select nothing"], ["arrows", "walk the graph"], ["+ − 0", "zoom, fit"]];
document.querySelector("footer").append(...keys.flatMap(([key, what]) => [el("kbd", {}, key), ` ${what}   `]));
