// Finds regions by the names of their ONNX nodes, or their own.

function search(compile, root, found) {
  const input = root.querySelector("input"), output = root.querySelector("output"), list = root.querySelector("ul");
  const entries = [...compile.regions.values()].flatMap(region =>
    [...new Set([...region.onnx_nodes, region.name])].map(node => ({node, region: region.name, key: `${node} ${region.text}`.toLowerCase()})));
  const close = () => { list.hidden = true; };
  const pick = entry => { compile.select(entry.region); close(); };
  function look() {
    const words = input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const matches = words.length ? entries.filter(entry => words.every(word => entry.key.includes(word))) : [];
    const regions = [...new Set(matches.map(match => match.region))];
    found(regions);
    output.textContent = words.length ? `${matches.length} found` : "";
    list.hidden = !matches.length;
    list.replaceChildren(...matches.slice(0, 40).map(entry => el("li", {}, el("button", {type: "button", onclick: () => pick(entry)},
      name(entry.node), entry.node === entry.region ? null : el("small", {}, `in ${entry.region}`)))));
    return matches;
  }
  input.oninput = look;
  input.onkeydown = event => {
    if (event.key === "Enter") { const [first] = look(); if (first) pick(first); }
    else if (event.key === "ArrowDown") { list.querySelector("button")?.focus(); event.preventDefault(); }
    else if (event.key === "Escape") { input.value = ""; look(); input.blur(); event.stopPropagation(); }
  };
  list.onkeydown = event => {
    const item = document.activeElement.closest("li"), to = {ArrowDown: item?.nextSibling, ArrowUp: item?.previousSibling}[event.key];
    if (event.key === "Escape") { close(); input.focus(); event.stopPropagation(); }
    if (to) { to.firstChild.focus(); event.preventDefault(); }
  };
  root.onfocusout = event => { if (!root.contains(event.relatedTarget)) close(); };
  input.onfocus = () => { if (input.value) look(); };
}
