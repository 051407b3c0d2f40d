// Plots, tables and pictures of a report. Names come from files and people: they go in as text, never as HTML.
"use strict";
const { panels, gallery } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
// Plotly reads a little HTML in its texts
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, length = 34) => plain(text.length > length ? text.slice(0, length - 1) + "…" : text);
// a variant's name holds what it varies, one after another: a line each
const lines = (text) => text.split(", ").map((part) => short(part)).join(",<br>");
const PALETTE = ["#3b78b5", "#e0742b", "#2f9e57", "#c43d4b", "#8a63b8", "#8c6b5a", "#d16fb0", "#7f8a92", "#b0a527", "#2aa8b8",
  "#9dc1e3", "#f5b98a", "#98d4ac", "#ef9ba4", "#c6afe0", "#c9b3a8", "#f0badb", "#c2c9ce", "#dcd58a", "#93d9e2"];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = {};
panels.pareto.variants.filter((name) => name !== panels.reference)
  .forEach((name, i) => { colours[name] = PALETTE[i % PALETTE.length]; });
const colour = (name) => (name === panels.reference ? css("--ink") : colours[name]);
const faded = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");
const label = `${panels.part} ${panels.metric}`;
const narrow = () => window.innerWidth < 700;

// ---- plots

function draw(div, traces, layout) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
  const named = traces.filter((trace) => trace.name && trace.showlegend !== false).length;
  const below = narrow() && named > 1 ? 34 * named : 0;  // on a narrow screen the legend stands under the plot
  const full = {
    height: below ? 360 + below : Math.max(420, 100 + 30 * named), margin: { l: 50, r: 15, t: 15, b: 55 + below }, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12 },
    legend: below ? { yref: "container", y: 0, yanchor: "bottom", x: 0 } : { font: { size: 11 } }, ...layout,
  };
  for (const key of Object.keys(full).filter((name) => /^[xy]axis/.test(name))) full[key] = { ...axis, ...full[key] };
  return Plotly.react(div, traces, full, { responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" } });
}

function drawPareto() {
  const { variants, costs, fronts, means, stds, seeds } = panels.pareto;
  const name = byId("pareto-cost").value, values = costs[name], many = variants.length > PALETTE.length + 1;
  const point = (i) => ({
    type: "scatter", mode: "markers", x: [values[i]], y: [means[i]], name: lines(variants[i]), showlegend: !many,
    error_y: { type: "data", array: [stds[i] || 0], thickness: 1, width: 3 }, marker: { size: 10, color: colour(variants[i]) },
    hovertemplate: `${plain(variants[i])}<br>${name} %{x:.4g}<br>${plain(label)} %{y:.4f}` +
      `${stds[i] === null ? "" : ` ± ${stds[i].toFixed(4)}`}<br>${seeds[i]} seed${seeds[i] > 1 ? "s" : ""}<extra></extra>`,
  });
  const line = { type: "scatter", mode: "lines", x: fronts[name].map((i) => values[i]), y: fronts[name].map((i) => means[i]),
    line: { shape: "hv", color: css("--soft"), width: 1, dash: "dot" }, showlegend: false, hoverinfo: "skip" };
  const far = Math.min(...values) > 0 && Math.max(...values) > 8 * Math.min(...values);
  draw("pareto", [line, ...variants.map((_, i) => point(i))],
    { xaxis: { title: { text: name }, type: far ? "log" : "linear" }, yaxis: { title: { text: plain(label) } } });
}

function drawDistributions() {
  const { ids, scores } = panels.distributions, reference = scores[panels.reference];
  const differing = byId("distributions-what").value === "difference";
  const shown = Object.keys(scores).filter((name) => !(differing && name === panels.reference)).reverse();
  const points = ids.length * shown.length <= 8000 ? "all" : "outliers";
  // each box stands in a row of its number, not of its name: names that were cut may be equal
  const traces = shown.map((name, row) => ({
    type: "box", orientation: "h", name: lines(name), y: ids.map(() => row), boxpoints: points, pointpos: 0, jitter: 0.7, boxmean: true,
    x: differing ? scores[name].map((value, i) => value - reference[i]) : scores[name], text: ids.map(plain),
    marker: { size: 3, opacity: 0.45, color: colour(name) }, line: { width: 1.2, color: colour(name) },
    fillcolor: faded(colour(name), 0.12), hovertemplate: "%{text}<br>%{x:.3f}<extra></extra>", showlegend: false,
  }));
  draw("distributions", traces, { height: 110 + 38 * shown.length, xaxis: { title: { text: plain(label) + (differing
    ? ` minus that of ${plain(panels.reference)}` : "") }, zeroline: true, zerolinecolor: css("--soft") },
    yaxis: { tickvals: shown.map((_, row) => row), ticktext: shown.map(lines), tickfont: { size: narrow() ? 9 : 12 } } });
}

function drawStrata() {
  const { names, counts, bars } = panels.strata;
  const traces = Object.entries(bars).map(([name, bar]) => ({
    type: "bar", name: lines(name), x: names.map((text, i) => `${text.replace(", ", "<br>")}<br>${counts[i]} images`), y: bar.mean,
    error_y: { type: "data", array: bar.std.map((value) => value || 0), thickness: 1, width: 2 },
    marker: { color: colour(name) }, hovertemplate: `${plain(name)}<br>%{y:.3f}<extra></extra>`,
  }));
  draw("strata", traces, { barmode: "group", xaxis: { tickangle: 0 }, yaxis: { title: { text: plain(label) } } });
}

function drawSweeps() {
  panels.sweeps.forEach((sweep, number) => {
    const id = `sweep-${number}`;
    if (!byId(id)) byId("sweeps").append(Object.assign(document.createElement("div"), { id }));
    const traces = [];
    const at = (point) => (sweep.numeric ? point.value : plain(JSON.stringify(point.value)));
    const order = sweep.lines.flatMap((line) => line.points).sort((a, b) => a.params - b.params).map(at);
    sweep.lines.forEach((line, i) => {
      const hue = PALETTE[i % PALETTE.length], x = line.points.map(at), group = `${i}`;
      const edge = (sign) => line.points.map((point) => point.mean + sign * (point.std || 0));
      const shared = { type: "scatter", legendgroup: group };
      traces.push(
        { ...shared, x, y: edge(-1), mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
        { ...shared, x, y: edge(1), mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: faded(hue, 0.15), showlegend: false, hoverinfo: "skip" },
        { ...shared, x: line.points.flatMap((point) => point.seeds.map(() => at(point))), y: line.points.flatMap((point) => point.seeds),
          mode: "markers", marker: { size: 5, color: hue, opacity: 0.5 }, showlegend: false, hovertemplate: "one seed: %{y:.4f}<extra></extra>" },
        { ...shared, x, y: line.points.map((point) => point.mean), mode: "lines+markers", name: short(line.name || sweep.key),
          line: { color: hue }, showlegend: sweep.lines.length > 1, hovertemplate: `${plain(line.name)} %{x}<br>mean %{y:.4f}<extra></extra>` });
    });
    const xaxis = { title: { text: plain(sweep.key) }, ...(sweep.numeric ? {} : { type: "category", categoryorder: "array", categoryarray: [...new Set(order)] }) };
    draw(id, traces, { height: 340, xaxis, yaxis: { title: { text: plain(label) } } });
  });
}

function drawCurves() {
  const metric = byId("curves-metric").value, traces = [];
  if (!metric) return;
  for (const [name, curve] of Object.entries(panels.curves[metric])) {
    const x = curve.mean.map((_, i) => i + 1), shared = { type: "scatter", x, legendgroup: name };
    traces.push(
      { ...shared, y: curve.low, mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
      { ...shared, y: curve.high, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: faded(colour(name), 0.1), showlegend: false, hoverinfo: "skip" },
      { ...shared, y: curve.mean, mode: "lines", name: lines(name), line: { color: colour(name), width: 2 },
        hovertemplate: `${plain(name)}<br>epoch %{x}: %{y:.4f}<extra></extra>` });
  }
  draw("curves", traces, { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: metric } } });
}

function drawParallel() {
  if (!byId("parallel")) return;
  if (!document.createElement("canvas").getContext("webgl")) {
    byId("parallel").textContent = "This browser has no WebGL, which this plot needs; the same plot lies in figures/ beside this page.";
    return;
  }
  const dimensions = panels.parallel.dimensions.map(({ label: name, values, ticks }) => ({
    label: short(name, 24), values,
    ...(ticks ? { tickvals: ticks.map((_, i) => i), ticktext: ticks.map((text) => short(text, 22)), range: [-0.2, ticks.length - 0.8] } : {}),
  }));
  const last = panels.parallel.dimensions.at(-1).values;
  draw("parallel", [{ type: "parcoords", dimensions, labelfont: { size: 11 }, tickfont: { size: 10, color: css("--ink") }, rangefont: { color: "rgba(0,0,0,0)" },
    line: { color: last, colorscale: "Viridis", reversescale: !panels.higher_is_better, showscale: true, colorbar: { thickness: 10, title: { text: plain(label), side: "right" } } } }],
    { height: 460, margin: { l: 130, r: 40, t: 60, b: 30 }, width: Math.max(byId("parallel").clientWidth, 100 + 125 * dimensions.length) });
}

function drawAll() {
  drawPareto(); drawDistributions(); drawStrata(); drawCurves(); drawParallel();
  if (byId("sweeps")) drawSweeps();
}

function choices(id, names, onchange) {
  for (const name of names) byId(id).append(new Option(name, name));
  byId(id).addEventListener("change", onchange);
}

// ---- tables

function sortTable(table, column) {
  const heads = [...table.tHead.rows[0].cells], up = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", up ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.key;
  const numeric = [...table.tBodies[0].rows].every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
  const compare = (a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");  // what has no value stays last
    const order = numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b), undefined, { numeric: true });
    return up ? -order : order;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

function filterTable(input, exactly) {
  const table = byId(input.dataset.filters), words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = exactly === undefined ? !words.every((word) => text.includes(word)) : row.cells[0].textContent !== exactly;
  }
  const left = rows.filter((row) => !row.hidden).length;
  byId(`${table.id}-count`).textContent = `${left === rows.length ? "" : `${left} of `}${rows.length} ${table.dataset.what}`;
}

for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortTable(table, column)));
for (const input of document.querySelectorAll("input[data-filters]")) input.addEventListener("input", () => filterTable(input));
for (const link of document.querySelectorAll("[data-runs-of]"))
  link.addEventListener("click", () => {
    byId("runs-filter").value = link.dataset.runsOf;
    filterTable(byId("runs-filter"), link.dataset.runsOf);
    byId("runs-section").scrollIntoView();
  });

// ---- pictures

let current = 0;

function layer(svg, picture, variant) {
  svg.setAttribute("viewBox", `0 0 ${picture.size[0]} ${picture.size[1]}`);
  const paths = [["pred", picture.preds[variant]], ...(byId("truth").checked ? [["truth", picture.truth]] : [])];
  svg.replaceChildren(...paths.map(([kind, d]) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", d);
    return path;
  }));
}

function showPicture() {
  const picture = gallery.pictures[current], at = byId("slider").value;
  const left = byId("left-variant").value, right = byId("right-variant").value;
  if (byId("picture").src !== picture.url) byId("picture").src = picture.url;
  byId("picture").alt = picture.id;
  byId("stage").style.aspectRatio = `${picture.size[0]} / ${picture.size[1]}`;
  layer(byId("left"), picture, left);
  layer(byId("right"), picture, right);
  byId("left").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  byId("right").style.clipPath = `inset(0 0 0 ${at}%)`;
  byId("divider").style.left = `calc(${at}% - 1px)`;
  byId("left-score").textContent = `${panels.metric} ${picture.scores[left].toFixed(3)}`;
  byId("right-score").textContent = `${panels.metric} ${picture.scores[right].toFixed(3)}`;
  byId("why").textContent = picture.chosen_for === panels.reference ? `${picture.id}: among the worst scores.`
    : `${picture.id}: chosen for ${picture.chosen_for}, which changes the mask by ${picture.change.toFixed(3)}` +
      (picture.between_seeds === null ? "." : ` beyond the ${picture.between_seeds.toFixed(3)} that two seeds of one variant differ by.`);
  [...byId("thumbs").children].forEach((thumb, i) => thumb.setAttribute("aria-pressed", i === current));
}

function choosePicture(index) {
  current = index;
  byId("left-variant").value = panels.reference;
  byId("right-variant").value = gallery.pictures[index].chosen_for;
  showPicture();
}

if (gallery.pictures.length) {
  gallery.pictures.forEach((picture, i) => {
    const button = document.createElement("button"), image = new Image();
    image.src = picture.url;
    image.alt = picture.id;
    button.title = picture.id;
    button.append(image);
    button.addEventListener("click", () => choosePicture(i));
    byId("thumbs").append(button);
  });
  choices("left-variant", gallery.variants, showPicture);
  choices("right-variant", gallery.variants, showPicture);
  byId("slider").addEventListener("input", showPicture);
  byId("truth").addEventListener("change", showPicture);
  choosePicture(0);
}

// ---- light and dark: the system's choice, until the reader makes one

const system = window.matchMedia("(prefers-color-scheme: dark)");
let theme = null;
try { theme = localStorage.getItem("report-theme"); } catch { /* a browser may forbid storage to files */ }
function setTheme() {
  document.documentElement.dataset.theme = theme || (system.matches ? "dark" : "light");
}
function switchTheme() {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("report-theme", theme); } catch { /* then it holds for this visit */ }
  setTheme();
  drawAll();
}
setTheme();
byId("theme").addEventListener("click", switchTheme);
system.addEventListener("change", () => { setTheme(); drawAll(); });

choices("pareto-cost", Object.keys(panels.pareto.costs), drawPareto);
choices("curves-metric", Object.keys(panels.curves), drawCurves);
byId("distributions-what").addEventListener("change", drawDistributions);
if (Object.keys(panels.distributions.scores).length === 1) {
  byId("distributions-what").value = "scores";
  byId("distributions-what").closest(".tools").hidden = true;
}
drawAll();
document.documentElement.dataset.ready = "true";
