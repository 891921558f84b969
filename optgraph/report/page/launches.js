// The launches as a table to sort, and the panel of what is selected.

const shapeText = shape => shape.join("×");

function launchTable(compile) {
  const longest = Math.max(...compile.launches.map(launch => launch.time), 1e-9);
  const time = launch => [el("span", {class: "bar", "--tint": compile.tint(launch.kernel)}), timeText(launch.us).replace(" µs", "")];
  const columns = [ // title, value to sort by, how it is shown
    ["#", launch => launch.index, launch => launch.index],
    ["kernel", launch => launch.kernel, launch => launch.kernel, "left"],
    ["region", launch => launch.node, launch => name(launch.node), "left"],
    ["output", launch => launch.outputs[0].reduce((a, b) => a * b, 1), launch => shapeText(launch.outputs[0].slice(1))],
    ["µs", launch => launch.time, time],
    ["bound by", launch => launch.bound, launch => launch.bound, "left"],
    ["blocks", launch => launch.programs, launch => launch.programs],
    ["padded", launch => launch.padded ?? 0, launch => launch.padded ? `${launch.padded.toFixed(2)}×` : "–"],
    ["read", launch => launch.read_bytes, launch => bytesText(launch.read_bytes)],
    ["written", launch => launch.written_bytes, launch => bytesText(launch.written_bytes)],
    ["weights", launch => launch.weight_bytes, launch => bytesText(launch.weight_bytes)],
    ["FLOP", launch => launch.flops, launch => flopsText(launch.flops)],
  ];
  const rows = compile.launches.map(launch => {
    const cells = columns.map(([, , shown, side]) => el("td", {class: side}, shown(launch)));
    cells[4].querySelector(".bar").style.width = `${Math.max(2, launch.time / longest * 44)}px`;
    return el("tr", {tabindex: -1, "data-launch": launch.index, onclick: () => compile.selectLaunch(launch.index)}, cells);
  });
  const body = el("tbody");
  const heads = columns.map(([title, , , side], i) => el("th", {class: side, scope: "col"}, button(title, () => sort(i))));
  let by = null, down = false;
  function sort(column) {
    down = column === by ? !down : column >= 4;
    by = column;
    const value = columns[column][1];
    const order = compile.launches.map((launch, i) => [value(launch), i]);
    order.sort(([a, i], [b, j]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || i - j);
    body.replaceChildren(...order.map(([, i]) => rows[i]));
    heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
  }
  sort(4);
  const scroll = el("div", {class: "rows card", tabindex: 0, role: "region", "aria-label": "launches", onkeydown: event => {
    const by = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!by) return;
    event.preventDefault();
    const shown = [...body.children], now = rows[compile.selected.launch];
    const next = shown[Math.max(0, Math.min(shown.length - 1, now ? shown.indexOf(now) + by : 0))];
    compile.selectLaunch(Number(next.dataset.launch));
  }}, el("table", {}, el("thead", {}, el("tr", {}, heads)), body));
  let row = null;
  compile.onSelect(({launch}) => {
    row?.classList.remove("chosen");
    row = rows[launch];
    if (!row) return;
    row.classList.add("chosen");
    const top = row.offsetTop - 30, bottom = row.offsetTop + row.offsetHeight; // scrolls the table, not the page
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    else if (bottom > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = bottom - scroll.clientHeight;
  });
  return section("launches", "Launches", "each row is one; click a heading to sort, a row to select", scroll);
}

function panel(compile) {
  const root = el("aside", {class: "panel card", "aria-label": "what is selected", "aria-live": "polite"});
  const show = ({region, launch}) => {
    root.classList.toggle("empty", region === null);
    root.replaceChildren(...(region === null ? nothing() : about(compile, compile.regions.get(region), launch)).filter(Boolean));
    root.scrollTop = 0;
  };
  const nothing = () => [el("h3", {}, "Nothing selected"),
    el("p", {}, "Click a box, a bar, a dot or a row, or find an ONNX node by its name.")];
  compile.onSelect(show);
  show(compile.selected);
  return root;
}

function facts(pairs) {
  return el("dl", {}, pairs.filter(pair => pair[1] != null).map(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]));
}

function about(compile, region, chosen) {
  const shapes = region.outputs.map(output => shapeText(output.shape)).join(", ");
  const close = button("close", () => compile.select(null), {title: "Esc", class: "link"});
  const fallback = compile.net.fallbacks.find(each => each.node === region.name);
  const leaving = compile.out_of_range.find(each => each.region === region.name);
  return [
    el("div", {class: "head"}, el("h3", {}, region.op), el("span", {class: "space"}), close),
    name(region.name, "p"),
    facts([["output", shapes],
      ["measured", compile.measured && measuredText(compile, region.name)],
      ["no kernel", fallback && fallback.reason],
      ["leaves fp16", leaving && `${leaving.end} numbers: ${Number(leaving.value).toPrecision(3)}`]]),
    ...region.launches.map(launch => aboutLaunch(compile, launch, launch.index === chosen)),
    !region.launches.length && el("p", {class: "launch"}, "Launches nothing: what it gives is where its input is, or where those before it wrote."),
    el("h3", {}, `ONNX nodes (${region.onnx_nodes.length})`),
    el("ul", {}, region.onnx_nodes.map(node => name(node, "li"))),
    el("h3", {}, "Operator"), el("pre", {}, region.text),
  ];
}

function measuredText({measured, measuredBy}, region) {
  const ms = measuredBy.get(region);
  return ms == null ? `nothing on ${measured.backend}` : `${msText(ms)} on ${measured.backend}, ${(ms / measured.ms * 100).toFixed(1)} % of all`;
}

function aboutLaunch(compile, launch, chosen) {
  const variant = compile.variants[launch.variant];
  const tile = launch.tile && [shapeText(launch.tile), `${launch.warps} warps`, plural(launch.stages, "stage"),
    launch.splits && `depth in ${launch.splits}`, launch.accumulators && `${launch.accumulators} accumulators`,
    launch.producers && `${launch.producers} warps that make the operand`, launch.rows && `${launch.rows} rows a program`,
    launch.box && `TMA box ${shapeText(launch.box)}`].filter(Boolean).join(", ");
  const waits = launch.waits.map(index => [button(`${index}`, () => compile.selectLaunch(index), {class: "link"}), " "]);
  return el("div", {class: chosen ? "launch chosen" : "launch"},
    button(`Launch ${launch.index}: ${launch.kernel}`, () => compile.selectLaunch(launch.index), {class: "link", "aria-pressed": chosen}),
    facts([
      ["time", `${timeText(launch.us)}, predicted`], ["bound by", launch.bound],
      ["reckoned from", launch.compiled ? "its machine code" : "its tile"],
      ["wave, stream", `${launch.wave}, ${launch.stream}`],
      ["waits for", waits.length ? waits : null],
      ...Object.entries(launch.inputs).map(([slot, shape]) => [slot, shapeText(shape)]),
      ["writes", launch.outputs.map(shapeText).join(", ")],
      ["blocks", launch.grid && `${launch.programs.toLocaleString("en")} (${shapeText(launch.grid)})`],
      ["tile", tile], ["padded", launch.padded && `${launch.padded.toFixed(2)} times the products needed`],
      ["bytes", `${bytesText(launch.read_bytes)} read, ${bytesText(launch.written_bytes)} written`],
      ["weights", bytesText(launch.weight_bytes)],
      ["FLOP", launch.flops ? flopsText(launch.flops) : null],
      ["registers", variant && `${variant.registers}${variant.spills ? `, ${variant.spills} bytes spilled` : ""}`],
      ["shared memory", variant && bytesText(variant.shared_bytes)],
      ["on an SM", variant && plural(variant.blocks_per_sm, "block")],
      ["tensor cores", variant && ([variant.wgmma && "wgmma", variant.mma && "mma", variant.tma && "TMA"].filter(Boolean).join(", ") || "none")],
    ]));
}
