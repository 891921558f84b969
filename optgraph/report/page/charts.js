// The charts of launches: when each runs on which stream, which bytes hold what, and how far each is from the roofline.

// A chart that draws itself anew where its room changes. It may have thousands of marks: where what is selected changes,
// only those that are concerned do. `draw` gives a function of the selection, which says which marks are of which kind,
// [[mark, "chosen" or "related"]], and what lies over them.
function chart(compile, label, height, draw) {
  const root = el("div", {class: "chart card"}), over = svg("g", {class: "over"});
  let concerned = () => ({kinds: [], over: []}), marked = [];
  const select = () => {
    for (const [mark] of marked) mark.classList.remove("chosen", "related");
    const found = concerned(compile.selected);
    marked = found.kinds.filter(([mark]) => mark);
    for (const [mark, kind] of marked) mark.classList.add(kind);
    over.replaceChildren(...found.over);
  };
  const update = () => {
    const width = root.clientWidth - 22;
    if (width < 50) return;
    const picture = svg("svg", {width, height, role: "img", "aria-label": label});
    marked = [];
    concerned = draw(picture, width, height);
    picture.append(over);
    root.replaceChildren(picture);
    select();
  };
  new ResizeObserver(update).observe(root);
  compile.onSelect(select);
  return Object.assign(root, {update});
}

function mark(compile, launch, shape) {
  const tip = svg("title", {}, `${launch.index}  ${launch.kernel}  ${timeText(launch.us)}\n${launch.node}`);
  const shown = fill(shape, {class: "mark", "data-launch": launch.index, onclick: () => compile.selectLaunch(launch.index)}, [tip]);
  shown.style.fill = compile.tint(launch.kernel);
  return shown;
}

// The marks of the selected region's launches. marks: by launch.
function ofRegion(compile, marks, {region, launch}) {
  const launches = region === null ? [] : compile.regions.get(region).launches;
  return launches.map(({index}) => [marks.get(index), index === launch ? "chosen" : "related"]);
}

const text = (x, y, words, anchor = "start", kind = "") => svg("text", {x, y, "text-anchor": anchor, class: kind}, words);

function timeline(compile) {
  const LEFT = 66, BAR = 20, streams = 1 + Math.max(0, ...compile.launches.map(launch => launch.stream));
  let zoom = 1;
  const end = Math.max(1, ...compile.launches.map(launch => launch.start + launch.time));
  const shown = chart(compile, "When each launch runs, by stream", streams * (BAR + 6) + 30, (picture, room, height) => {
    const width = room * zoom, at = time => LEFT + time / end * (width - LEFT - 12);
    picture.setAttribute("width", width);
    const ticks = Math.max(2, Math.round(width / 170)), row = launch => launch.stream * (BAR + 6) + 4;
    for (let i = 0; i <= ticks; i++) {
      const x = at(end * i / ticks), anchor = i === 0 ? "start" : i === ticks ? "end" : "middle";
      picture.append(svg("line", {x1: x, x2: x, y1: 0, y2: height - 22, class: "grid"}),
        text(x, height - 6, `${digits(end * i / ticks)} µs`, anchor));
    }
    for (let i = 0; i < streams; i++) picture.append(text(0, i * (BAR + 6) + 18, `stream ${i}`));
    const marks = new Map(compile.launches.map(launch => {
      const width = Math.max(1.5, at(launch.start + launch.time) - at(launch.start));
      return [launch.index, mark(compile, launch, svg("rect", {x: at(launch.start), y: row(launch), width, height: BAR, rx: 2}))];
    }));
    picture.append(...marks.values());
    const arrow = (other, chosen) => {
      const x1 = at(other.start + other.time), x2 = at(chosen.start), y1 = row(other) + BAR / 2, y2 = row(chosen) + BAR / 2;
      return svg("path", {class: "wait", d: `M${x1} ${y1}C${x1 + 14} ${y1} ${x2 - 14} ${y2} ${x2} ${y2}`});
    };
    return selected => {
      const chosen = compile.launches[selected.launch];
      return {kinds: ofRegion(compile, marks, selected), over: (chosen?.waits ?? []).map(index => arrow(compile.launches[index], chosen))};
    };
  });
  const slider = el("input", {type: "range", min: 1, max: 16, step: 0.5, value: 1, "aria-label": "zoom of the timeline",
    oninput: event => { zoom = Number(event.target.value); shown.update(); }});
  const found = section("timeline", "Timeline", `what runs at the same time, ${plural(streams, "stream")}; each launch takes its predicted time`, shown);
  found.head.append(el("span", {class: "space"}), el("label", {}, "zoom ", slider));
  shown.after(legend(compile));
  return found;
}

function arena(compile) {
  const LEFT = 58, BOTTOM = 24, {buffers} = compile.schedule, total = Math.max(1, compile.net.arena_bytes);
  const writer = new Map();
  for (const launch of compile.launches) for (const base of launch.writes) if (!writer.has(base)) writer.set(base, launch);
  const shown = chart(compile, "Which bytes of the arena each buffer holds, launch by launch", 300, (picture, width, height) => {
    const x = index => LEFT + index / compile.launches.length * (width - LEFT - 4);
    const y = bytes => 6 + (1 - bytes / total) * (height - BOTTOM - 6), marks = new Map(); // by buffer
    for (let i = 0; i <= 4; i++) {
      const level = y(total * i / 4);
      picture.append(svg("line", {x1: LEFT, x2: width, y1: level, y2: level, class: "grid"}),
        text(LEFT - 6, level + 4, bytesText(total * i / 4), "end"));
    }
    for (const buffer of buffers) {
      const by = writer.get(buffer.name);
      const shape = svg("rect", {x: x(buffer.first), width: Math.max(1, x(buffer.last + 1) - x(buffer.first)),
        y: y(buffer.offset + buffer.bytes), height: Math.max(1, y(buffer.offset) - y(buffer.offset + buffer.bytes))});
      const held = mark(compile, by, shape);
      held.firstChild.textContent = `${buffer.name}\n${bytesText(buffer.bytes)} at ${bytesText(buffer.offset)}, launches ${buffer.first} to ${buffer.last}`;
      marks.set(buffer.name, held);
    }
    picture.append(...marks.values(), text(LEFT, height - 6, "launch 0"), text(width, height - 6, `${compile.launches.length - 1}`, "end"));
    return ({launch}) => {
      const chosen = compile.launches[launch];
      if (!chosen) return {kinds: [], over: []};
      const {writes, reads} = chosen, at = x(launch + 0.5);
      return {kinds: [...writes.map(base => [marks.get(base), "chosen"]),
        ...reads.filter(base => !writes.includes(base)).map(base => [marks.get(base), "related"])],
      over: [svg("line", {x1: at, x2: at, y1: 0, y2: height - BOTTOM, class: "wait"})]};
    };
  });
  return section("arena", "Arena", "which bytes each buffer holds, launch by launch", shown);
}

function roofline(compile) {
  const LEFT = 62, BOTTOM = 38, {rates} = compile;
  const points = compile.launches.filter(launch => launch.flops).map(launch =>
    ({launch, x: launch.flops / (launch.bytes + launch.weight_bytes), y: launch.flops / launch.time * 1e6}));
  const decade = (values, low) => low ? Math.floor(Math.log10(Math.min(...values))) : Math.ceil(Math.log10(Math.max(...values)));
  const xs = points.map(point => point.x), ridge = rates.flops / rates.bytes;
  const x0 = decade([...xs, 1], true), x1 = decade([...xs, ridge * 2], false);
  const y0 = decade([...points.map(point => point.y), 10 ** x0 * rates.bytes], true), y1 = decade([rates.flops], false);
  const shown = chart(compile, "FLOPs a second against FLOPs a byte", 300, (picture, width, height) => {
    const x = value => LEFT + (Math.log10(value) - x0) / (x1 - x0) * (width - LEFT - 8);
    const y = value => 8 + (1 - (Math.log10(value) - y0) / (y1 - y0)) * (height - BOTTOM - 8);
    for (let power = y0; power <= y1; power++) {
      picture.append(svg("line", {x1: LEFT, x2: width - 8, y1: y(10 ** power), y2: y(10 ** power), class: "grid"}),
        text(LEFT - 6, y(10 ** power) + 4, flopsText(10 ** power), "end"));
    }
    for (let power = x0; power <= x1; power++) {
      const anchor = power === x0 ? "start" : power === x1 ? "end" : "middle";
      picture.append(svg("line", {x1: x(10 ** power), x2: x(10 ** power), y1: 8, y2: height - BOTTOM, class: "grid"}),
        text(x(10 ** power), height - BOTTOM + 13, `${10 ** power}`, anchor));
    }
    picture.append(text(LEFT + (width - LEFT) / 2, height - 6, "launches that multiply; across: FLOP a byte, up: FLOP a second", "middle"));
    for (const [kind, memory, flops] of [["", 1, 1], ["reached", rates.reached.bytes, rates.reached.flops]]) {
      const knee = ridge * flops / memory, points = [[10 ** x0, 10 ** x0 * rates.bytes * memory], [knee, rates.flops * flops], [10 ** x1, rates.flops * flops]];
      picture.append(svg("polyline", {class: `roof ${kind}`, points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")}));
    }
    const longest = Math.max(...points.map(point => point.launch.time), 1e-9);
    const marks = new Map(points.map(point => {
      const r = 3 + 6 * Math.sqrt(point.launch.time / longest);
      return [point.launch.index, mark(compile, point.launch, svg("circle", {cx: x(point.x), cy: y(point.y), r, "fill-opacity": 0.8}))];
    }));
    picture.append(...marks.values());
    return selected => {
      const point = points.find(({launch}) => launch.index === selected.launch), {low, high} = point?.launch.us ?? {};
      const range = () => svg("line", {class: "wait", x1: x(point.x), x2: x(point.x), y1: y(point.launch.flops / low * 1e6), y2: y(point.launch.flops / high * 1e6)});
      return {kinds: ofRegion(compile, marks, selected), over: high > low ? [range()] : []};
    };
  });
  return section("roofline", "Roofline", `${compile.device}, ${compile.net.dtype}; dashed: what good kernels reach`, shown);
}
