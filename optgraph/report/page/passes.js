// The passes as steps to be played: the graph before and after each, with what was rewritten marked, and why.

// What a pass says of itself: paragraphs, and indented lines of algebra.
function told(text) {
  return text.split(/\n\s*\n/).map(part => part.startsWith("    ") ? el("pre", {}, part.replace(/^    /gm, "")) : el("p", {}, part.replaceAll("\n", " ")));
}

function passes(compile) {
  const {boxes} = compile, {steps, algebra} = compile.steps;
  if (!compile.passes.length) compile.passes = steps.slice(1).map((step, i) => ({name: step.pass, title: step.pass === "fused" ? "all passes of fusion" : step.pass,
    rewrites: null, nodes_before: steps[i].boxes.length, nodes_after: step.boxes.length, ms: null, refusals: []}));
  let now = steps[0];
  const after = compile.passes.map(each => (now = steps.find(step => step.pass === each.name) ?? now)); // by pass
  const before = after.map((_, i) => i ? after[i - 1] : steps[0]);
  const most = Math.max(1, ...compile.passes.map(each => each.nodes_before));
  const changing = compile.passes.map((_, i) => i).filter(i => after[i] !== before[i]);
  let shown = changing[0] ?? 0, change = -1, timer = null, marks = [], views = [];

  const items = compile.passes.map((each, i) => {
    const bar = el("span", {class: "bar"});
    bar.style.width = `${each.nodes_after / most * 100}%`;
    const said = [each.rewrites == null ? null : plural(each.rewrites, "rewrite"), each.refusals.length ? `${each.refusals.length} refused` : null,
      each.ms == null ? null : `${each.ms.toFixed(1)} ms`].filter(Boolean).join(", ");
    return el("li", {}, el("button", {type: "button", class: after[i] === before[i] ? "idle" : "", onclick: () => { stop(); show(i); }},
      el("span", {}, each.title), el("span", {}, `${each.nodes_after}`), bar, el("small", {}, said)));
  });
  const list = el("ol", {class: "passlist card", "aria-label": "passes, with the operators that each leaves"}, items);
  const story = el("div", {class: "story card", tabindex: 0, role: "region", "aria-label": "what the pass does"});
  const pair = el("div", {class: "two"}), count = el("span", {class: "mono"});
  const play = button("play", () => timer ? stop() : start(), {"aria-pressed": false});
  const controls = el("div", {class: "head"},
    button("‹ pass", () => move(-1), {title: "the pass before that changed something"}), play,
    button("pass ›", () => move(1), {title: "the next pass that changed something"}), el("span", {class: "space"}),
    el("span", {class: "legend"}, el("span", {}, swatch("var(--gone)"), "goes"), el("span", {}, swatch("var(--changed)"), "rewritten"), el("span", {}, swatch("var(--new)"), "new")),
    el("span", {class: "nowrap"}, button("‹", () => go(-1), {title: "the change before", "aria-label": "the change before"}), " ", count, " ",
      button("›", () => go(1), {title: "the next change", "aria-label": "the next change"})));

  function start() {
    timer = setInterval(() => { if (change + 1 < Math.min(marks.length, 4)) go(1); else if (!move(1)) stop(); }, 1400);
    play.textContent = "stop";
    play.setAttribute("aria-pressed", true);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "play";
    play.setAttribute("aria-pressed", false);
  }
  function move(by) {
    const next = by > 0 ? changing.find(i => i > shown) : changing.findLast(i => i < shown);
    if (next == null) return false;
    show(next);
    return true;
  }
  const origin = index => boxes[index].nodes, nameOf = index => boxes[index].name;

  function show(i) {
    shown = i;
    const each = compile.passes[i], from = before[i], to = after[i];
    items.forEach((item, j) => item.firstChild.setAttribute("aria-pressed", i === j));
    const {offsetTop, offsetHeight} = items[i];
    if (offsetTop < list.scrollTop || offsetTop + offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = offsetTop - list.clientHeight / 2;
    const refused = each.refusals.map(one => el("li", {}, find(one.node, to), " ", one.reason));
    story.replaceChildren(el("h3", {}, each.title), ...told(algebra[each.name] || "The file has the graphs, and not its passes one by one."),
      refused.length ? el("h3", {}, `Refused (${refused.length})`) : "", el("ul", {}, refused));
    story.scrollTop = 0;
    const old = new Map(from.boxes.map((box, at) => [nameOf(box), at])), made = new Map(to.boxes.map((box, at) => [nameOf(box), at]));
    const lookOld = at => { const there = made.get(nameOf(from.boxes[at])); return {classes: there == null ? ["gone"] : to.boxes[there] !== from.boxes[at] ? ["changed"] : []}; };
    const lookNew = at => { const there = old.get(nameOf(to.boxes[at])); return {classes: there == null ? ["new"] : from.boxes[there] !== to.boxes[at] ? ["changed"] : []}; };
    views = from === to ? [view(to, () => ({}), "as it stays")] : [view(from, lookOld, "before"), view(to, lookNew, "after")];
    pair.replaceChildren(...views.map(({figure}) => figure));
    pair.classList.toggle("two", views.length > 1);
    // A change is a box that is new or rewritten, and those before it that it stands for now; or one that is just gone.
    const users = new Map();
    from.boxes.forEach((box, at) => { if (lookOld(at).classes.length) for (const node of origin(box)) users.set(node, [...(users.get(node) ?? []), at]); });
    const known = new Set();
    marks = [];
    to.boxes.forEach((box, at) => {
      if (from === to || !lookNew(at).classes.length) return;
      const were = [...new Set(origin(box).flatMap(node => users.get(node) ?? []))];
      were.forEach(other => known.add(other));
      marks.push([were, at]);
    });
    from.boxes.forEach((_, at) => { if (from !== to && lookOld(at).classes.includes("gone") && !known.has(at)) marks.push([[at], null]); });
    change = -1;
    if (marks.length) go(1); else count.textContent = "no change";
    highlight(compile.selected, false);
  }
  function view(step, look, what) {
    const graph = new GraphView(step, boxes, {look, label: `the graph ${what}`, pick: at => { stop(); pick(step, at); }});
    return {step, graph, figure: el("figure", {}, el("figcaption", {}, `${what}: ${plural(step.boxes.length, "box")}`.replace("boxs", "boxes")), graph.root)};
  }
  function go(by) {
    if (!marks.length) return;
    change = (change + by + marks.length) % marks.length;
    const [were, at] = marks[change];
    views[0].graph.mark("found", were);
    views[1].graph.mark("found", at == null ? [] : [at]);
    views[0].graph.show(were);
    if (at != null) views[1].graph.show([at]);
    count.textContent = `change ${change + 1} of ${marks.length}`;
  }
  // A box of any step selects the region that its ONNX nodes are in at the end.
  function pick(step, at) {
    const nodes = at == null ? [] : origin(step.boxes[at]);
    compile.select(nodes.map(node => compile.regionOf.get(node)).find(Boolean) ?? null);
  }
  function find(node, step) {
    const at = step.boxes.findIndex(box => nameOf(box) === node);
    if (at < 0) return name(node);
    return button(node, () => { const last = views.at(-1); last.graph.mark("found", [at]); last.graph.show([at]); }, {class: "link name"});
  }
  function highlight({region}, move = true) {
    const nodes = new Set(region === null ? [] : compile.regions.get(region).onnx_nodes);
    for (const {step, graph} of views) {
      const at = step.boxes.flatMap((box, i) => origin(box).some(node => nodes.has(node)) ? [i] : []);
      graph.mark("chosen", at);
      if (move) graph.show(at);
    }
  }
  compile.onSelect(highlight);
  const found = section("passes", "Passes", `${changing.length} of ${compile.passes.length} changed the graph; beside each, how many operators it leaves`,
    el("div", {class: "player"}, list, el("div", {}, story, controls, pair)));
  show(shown);
  return found;
}
