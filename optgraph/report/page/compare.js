// Two compiles side by side: their figures, and what became of the same ONNX nodes in each.

function comparison(compiles) {
  const [a, b] = compiles, names = compiles.map(title);
  const rows = cards(a).map(([what], i) => [what, cards(a)[i], cards(b)[i]]).filter(([, x, y]) => x && y);
  const change = (x, y) => {
    if (typeof x !== "number" || typeof y !== "number" || !x || x === y) return el("td", {}, "");
    return el("td", {class: y < x ? "better" : "worse"}, `${y < x ? "" : "+"}${((y - x) / x * 100).toFixed(1)} %`);
  };
  const figures = el("table", {}, el("thead", {}, el("tr", {}, ["", ...names, "change"].map((each, i) => el("th", {class: i ? null : "left", scope: "col"}, each)))),
    el("tbody", {}, rows.map(([what, [, x, first], [, y, second]]) => el("tr", {}, el("td", {class: "left"}, what), el("td", {}, x), el("td", {}, y), change(first, second)))));
  // A region of the first, and those of the second that have an ONNX node of it.
  const pairs = [...a.regions.values()].map(region => {
    const others = [...new Set(region.onnx_nodes.map(node => b.regionOf.get(node)).filter(Boolean))].map(each => b.regions.get(each));
    const time = regions => regions.flatMap(each => each.launches).reduce((sum, launch) => sum + launch.time, 0);
    return {region, others, before: time([region]), after: time(others)};
  }).filter(pair => pair.others.length);
  pairs.sort((p, q) => Math.abs(q.before - q.after) - Math.abs(p.before - p.after));
  const kernels = regions => [...new Set(regions.flatMap(each => each.launches).map(launch => launch.kernel))].join(", ") || "–";
  const body = pairs.map(({region, others, before, after}) => {
    const pick = () => { a.select(region.name); b.select(others[0].name); };
    return el("tr", {onclick: pick, tabindex: 0, onkeydown: event => { if (event.key === "Enter") pick(); }},
      el("td", {class: "left"}, name(region.name)), el("td", {class: "left"}, kernels([region])), el("td", {}, digits(before)),
      el("td", {class: "left"}, kernels(others)), el("td", {}, digits(after)), change(before, after));
  });
  const none = el("p", {class: "card story"}, "No region of one has an ONNX node of the other.");
  const heads = ["region", names[0], "µs", names[1], "µs", "change"];
  const regions = el("table", {}, el("thead", {}, el("tr", {}, heads.map((each, i) => el("th", {class: i % 2 && i < 5 || !i ? "left" : null, scope: "col"}, each)))), el("tbody", {}, body));
  // What is selected in one is selected in the other.
  const follow = (from, to) => from.onSelect(({region}) => {
    const nodes = region === null ? [] : from.regions.get(region).onnx_nodes;
    const there = nodes.map(node => to.regionOf.get(node)).filter(Boolean);
    if (region === null) to.select(null);
    else if (there.length && !there.includes(to.selected.region)) to.select(there[0]);
  });
  follow(a, b);
  follow(b, a);
  const views = compiles.map((compile, i) => el("figure", {}, el("figcaption", {}, names[i]), graphOf(compile).root));
  return section("comparison", "Side by side", `regions with the same ONNX nodes; the largest difference first`,
    el("div", {class: "rows card"}, figures), el("h3", {}, "Regions"), pairs.length ? el("div", {class: "rows card"}, regions) : none, el("h3", {}, "Graphs"), el("div", {class: "two"}, views));
}
