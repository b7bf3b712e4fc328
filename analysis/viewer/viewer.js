/**
 * The viewer: paired trajectories under one time axis, in a page, from a server, or in a notebook.
 *
 * `mount(element, payload, {address})` builds it and returns what takes it away; the default export is an anywidget.
 * The payload is made by `analysis.viewer.payload`, where its form is described. A text of it is only ever set as text.
 *
 * With `address` the state is kept behind the # of the page, and read from there:
 *   #sample=3&arm=R4S32&arm=R0S63&step=17&error=whitened&map=mass&word=2&gain=4
 * `sample` is the index in the run, `error` (any group's name) the track that is shown of the group. Of several runs an
 * arm is RUN:ARM, and `step` counts in the longest; the others stand where they are as far along.
 */

const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c564b"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"], GAINS = [1, 2, 4, 8];
const PLOT = { height: 132, left: 46, right: 10, top: 8, bottom: 20 };
const HINT = "Thick lines: the sample shown; thin lines and bands: all samples. Keys: ← → a step, with Shift ten; Home, End; space plays; j, k: next and previous sample.";
const RUN_SECONDS = 8, KEPT = 200; // a whole run, played; strips of pictures held decoded
const DRAWN = new Set(["svg", "path", "line", "circle", "text", "g"]), decoded = new WeakMap();

export function mount(root, payload, { address = false } = {}) {
  const { runs } = payload;
  const longest = Math.max(...runs.map((run) => run.steps));
  const lanes = everyLane(runs);
  const groups = distinct(runs.flatMap((run) => run.groups), (group) => group.name);
  const maps = distinct(runs.flatMap((run) => run.maps), (map) => map.name);
  const samples = distinct(runs.flatMap((run) => run.samples), (sample) => sample.id);
  const first = { sample: samples[0]?.id ?? 0, arms: lanes.slice(0, 1), step: longest - 1, map: "", word: 0, gain: 1, tracks: {} };
  const state = { ...first }, images = new Map();
  let moving = [], frame = 0, playing = 0, noted = 0; // what follows the step; a redraw, the play, a note in the address to come

  // --- what stays ---
  const [controls, pictures, tracks] = ["controls", "pictures", "tracks"].map((name) => make("div", { class: `tv-${name}` }));
  const slider = make("input", { type: "range", min: 0, max: longest - 1, "aria-label": "Step", oninput: () => { stop(); go(+slider.value); } });
  const play = make("button", { type: "button", onclick: () => (playing ? stop() : start()) }, "Play");
  const where = make("output", { class: "tv-where" });
  const viewer = make("section", { class: "tv", "aria-label": "Trajectories", tabindex: address ? null : "0" },
    runs.map((run, place) => told(run, runs.length > 1, place === 0)), controls,
    make("div", { class: "tv-time" }, play, slider, where), make("div", { class: "tv-body" }, pictures, tracks), note(HINT));
  const watcher = new ResizeObserver((seen) => seen.forEach(({ target }) => target.fit()));

  // --- building: once for every choice of sample, arms, tracks, map ---
  function build() {
    const focused = viewer.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    moving = []; watcher.disconnect();
    controls.replaceChildren(...choices());
    pictures.replaceChildren(...state.arms.flatMap(row));
    tracks.replaceChildren(...groups.flatMap(panel));
    for (const holder of tracks.querySelectorAll(".tv-plot")) holder.fit();
    if (focused) viewer.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    move();
  }

  function choices() {
    const chosen = [], words = wordsShown();
    const add = (text, key, pairs, value) => chosen.push(chooser(text, key, pairs, state[key], (raw) => choose({ [key]: value(raw) })));
    if (samples.length > 1) add("Sample", "sample", samples.map((sample) => [sample.id, sample.label]), Number);
    if (lanes.length > 1) chosen.push(make("fieldset", { class: "tv-arms" }, make("legend", {}, "Arms"), lanes.map(chip)));
    if (maps.length) add("On the picture", "map", [["", "nothing"], ...maps.map((map) => [map.name, map.title])], String);
    if (words) add("Word", "word", words.map((word, place) => [place, word]), Number);
    if (runs.some((run) => run.pictures)) add("Difference", "gain", GAINS.map((gain) => [gain, `× ${gain}`]), Number);
    return chosen;
  }

  function chip(lane) {
    const after = lanes.filter((each) => state.arms.includes(each) !== (each === lane)), onchange = () => choose({ arms: after.length ? after : [lane] });
    const box = make("input", { type: "checkbox", checked: state.arms.includes(lane), "data-key": `arm ${lane.key}`, onchange });
    return make("label", { class: "tv-chip" }, box, swatch(lane.colour), lane.key);
  }

  function wordsShown() {
    const holding = runs.find((run) => placeOf(run, state.sample) >= 0 && mapOf(run)?.words);
    return holding && mapOf(holding).words[placeOf(holding, state.sample)];
  }

  /** One arm's pictures: clean, arm, and their difference. */
  function row(lane) {
    const { run, arm } = lane, place = placeOf(run, state.sample);
    if (!run.pictures) return [note(`${lane.key}: no pictures were recorded (--record frames).`)];
    if (place < 0) return [note(`${lane.key}: this sample is not among those kept of ${run.name}.`)];
    const { width, height, strips, steps, what } = run.pictures;
    const scale = Math.ceil(256 / Math.max(width, height));
    const titles = ["clean", lane.key, `difference${state.gain > 1 ? ` × ${state.gain}` : ""}`].slice(0, arm.name === "clean" ? 1 : 3);
    const canvases = titles.map(() => make("canvas", { width: width * scale, height: height * scale, role: "img" })), said = note("");
    moving.push(() => {
      const step = stepOf(run), at = lastUpTo(steps, step), [clean, masked] = ["clean", arm.name].map((name) => image(strips[name]?.[place]));
      canvases.forEach((canvas, column) => {
        const pen = canvas.getContext("2d");
        const put = (strip) => strip?.ready && pen.drawImage(strip.picture, at * width, 0, width, height, 0, 0, canvas.width, canvas.height);
        pen.imageSmoothingEnabled = false;
        pen.globalCompositeOperation = "source-over";
        pen.clearRect(0, 0, canvas.width, canvas.height);
        put(column ? masked : clean);
        if (column < 2) overlay(pen, mapOf(run), column ? arm.name : "clean", place, step);
        else {
          pen.globalCompositeOperation = "difference";
          put(clean);
          pen.globalCompositeOperation = "lighter"; // each time twice as bright
          for (let gain = 1; gain < state.gain; gain *= 2) pen.drawImage(canvas, 0, 0);
        }
        canvas.setAttribute("aria-label", `${titles[column]}, ${what} in step ${steps[at]}`);
      });
      setText(said, `${what} in step ${steps[at]}, ${run.pictures.note}. ${mapOf(run) ? legend(mapOf(run)) : ""}`);
    });
    return [lanes.length > 1 ? make("h2", {}, swatch(lane.colour), lane.key) : "",
      make("div", { class: "tv-row" }, canvases.map((canvas, column) => make("figure", {}, canvas, make("figcaption", {}, titles[column])))), said];
  }

  /** Heat over the cells of the grid, or rings whose area is the value. */
  function overlay(pen, map, arm, place, step) {
    const strip = image(map?.strips[arm]?.[place]);
    if (!strip?.ready) return;
    const { data, width } = (strip.grey ??= greys(strip.picture));
    const at = lastUpTo(map.steps, step), word = map.words ? state.word : 0, heat = map.kind === "heat";
    const across = pen.canvas.width / map.width, down = pen.canvas.height / map.height;
    pen.fillStyle = "rgb(0 0 0 / 0.6)";
    if (heat) pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
    for (let cell = 0; cell < map.width * map.height; cell++) {
      const x = cell % map.width, y = (cell - x) / map.width;
      const value = data[4 * ((word * map.height + y) * width + at * map.width + x)] / 255;
      if (!value) continue;
      pen.beginPath();
      pen.fillStyle = `rgb(255 ${Math.round(60 + 195 * value)} ${Math.round(20 + 130 * value ** 3)} / ${0.85 * value})`;
      if (heat) pen.fillRect(x * across, y * down, across, down);
      else pen.arc((x + 0.5) * across, (y + 0.5) * down, Math.max(2, 0.9 * Math.sqrt(value) * across), 0, 2 * Math.PI);
      for (const [wide, colour] of heat ? [] : [[5, "#fff"], [2.5, "#c2185b"]]) Object.assign(pen, { lineWidth: wide, strokeStyle: colour }).stroke();
    }
  }

  /** One group of tracks: heading, chooser, plot, the numbers at the cursor, what they are. */
  function panel(group) {
    const all = distinct(runs.flatMap((run) => run.tracks.filter((track) => track.group === group.name)), (track) => track.name);
    if (!all.length) return [];
    const one = group.show === "one", chosen = all.find((track) => track.name === state.tracks[group.name]) ?? all[0];
    const curves = one ? state.arms.flatMap((lane) => curve(lane, chosen.name, lane.key, lane.colour, ""))
      : all.flatMap((track, place) => curve(state.arms[0], track.name, track.title, PALETTE[place % 8], DASHES[place % 4]));
    const title = one ? chosen.title : group.title + (lanes.length > 1 && state.arms.length ? ` of ${state.arms[0].key}` : "");
    const pairs = all.map((track) => [track.name, track.title]), pick = (name) => choose({ tracks: { ...state.tracks, [group.name]: name } });
    const head = make("div", { class: "tv-head" }, make("h2", {}, one && all.length > 1 ? group.title : title, make("small", {}, one ? unit(chosen) : "")),
      one && all.length > 1 ? chooser("", group.name, pairs, chosen.name, pick, group.title) : "");
    if (!curves.length) return make("section", { class: "tv-panel" }, head, note("Not recorded for this arm."));
    const holder = make("div", { class: "tv-plot" });
    const numbers = curves.map((each) => make("li", {}, swatch(each.colour, each.dash), make("bdi", {}, each.label), " ", make("span")));
    holder.fit = () => holder.replaceChildren(plot(curves, { ...chosen, title }, holder.clientWidth || 600));
    moving.push(() => {
      curves.forEach((each, place) => setText(numbers[place].lastChild, atCursor(each, stepOf(each.run))));
      holder.firstChild?.toStep();
    });
    watcher.observe(holder);
    const band = curves.some((each) => each.band) ? `Dotted: ${chosen.band_label}. ` : "";
    const help = band + [...new Set(curves.flatMap((each) => each.track.help.split(/(?<=\.) /)))].join(" "); // no sentence twice
    return make("section", { class: "tv-panel" }, head, holder, make("ul", { class: "tv-numbers" }, numbers), note(help));
  }

  function curve({ run, arm }, name, label, colour, dash) {
    const track = run.tracks.find((each) => each.name === name), line = track?.arms[arm.name], band = track?.band?.[arm.name];
    const place = placeOf(run, state.sample), edges = (of) => ({ low: floats(of, "low"), high: floats(of, "high") });
    if (!line) return [];
    const own = place < 0 ? null : floats(line, "values").subarray(place * run.steps, (place + 1) * run.steps);
    return [{ run, track, label, colour, dash, own, middle: floats(line, "middle"), ...edges(line), band: band && edges(band) }];
  }

  /** The plot as SVG, with `toStep` that puts cursor and dots where the step is. */
  function plot(curves, track, width) {
    const inside = { width: width - PLOT.left - PLOT.right, height: PLOT.height - PLOT.top - PLOT.bottom };
    const lists = curves.flatMap((each) => [each.own, each.low, each.middle, each.high, each.band?.low, each.band?.high, [track.reference ?? NaN]]);
    const [low, high] = limits(lists.filter(Boolean), track.log), warp = track.log ? Math.log : Number;
    const seen = (value) => Number.isFinite(value) && (!track.log || value > 0);
    const x = (step, steps) => PLOT.left + inside.width * (steps > 1 ? step / (steps - 1) : 0.5);
    const y = (value) => PLOT.top + inside.height * (1 - (warp(Math.max(low, value)) - warp(low)) / (warp(high) - warp(low)));
    const points = (values, steps) => [...values].map((value, step) => seen(value) && `${x(step, steps).toFixed(1)} ${y(value).toFixed(1)}`);
    const joined = (point, step, all) => point && `${all[step - 1] ? "L" : "M"}${point}${all[step - 1] || all[step + 1] ? "" : "h2"}`; // alone: a dot
    const line = (values, steps) => points(values, steps).map(joined).filter(Boolean).join("");
    const area = (edges, steps) => {
      const around = [...points(edges.high, steps), ...points(edges.low, steps).reverse()].filter(Boolean);
      return around.length ? `M${around.join("L")}Z` : "";
    };
    const level = (value, name) => make("line", { class: name, x1: PLOT.left, x2: width - PLOT.right, y1: y(value), y2: y(value) });
    const label = (text, at, height, anchor) => make("text", { x: at, y: height, "text-anchor": anchor }, text);
    const cursor = make("line", { class: "tv-cursor", y1: PLOT.top, y2: PLOT.top + inside.height }), dots = curves.map((each) => make("circle", { r: 4, fill: each.colour, class: "tv-dot" }));
    const svg = make("svg", { width, height: PLOT.height, role: "img", "aria-label": `${track.title}${unit(track)} over the steps` },
      make("g", { class: "tv-grid" },
        ticks(low, high, track.log).map((value) => [level(value, ""), label(short(value), PLOT.left - 5, y(value) + 4, "end")]),
        ticks(0, longest - 1, false, 6).filter(Number.isInteger).map((step) => label(String(step), x(step, longest), PLOT.height - 5, "middle"))),
      track.reference == null ? "" : level(track.reference, "tv-reference"),
      curves.map(({ run: { steps }, colour, dash, own, middle, band, ...edges }) => [
        band ? make("path", { d: area(band, steps), class: "tv-band", stroke: colour, fill: colour }) : "",
        make("path", { d: area(edges, steps), fill: colour, opacity: 0.16 }),
        make("path", { d: line(middle, steps), class: "tv-middle", stroke: colour, "stroke-dasharray": dash }),
        own ? make("path", { d: line(own, steps), class: "tv-own", stroke: colour, "stroke-dasharray": dash }) : "",
      ]), cursor, dots);
    svg.toStep = () => {
      set(cursor, { x1: x(state.step, longest), x2: x(state.step, longest) });
      curves.forEach((each, place) => {
        const step = stepOf(each.run), value = (each.own ?? each.middle)[step];
        set(dots[place], seen(value) ? { visibility: "visible", cx: x(step, each.run.steps), cy: y(value) } : { visibility: "hidden" });
      });
    };
    svg.onpointermove = svg.onpointerdown = (event) => {
      const along = (event.clientX - svg.getBoundingClientRect().left - PLOT.left) / inside.width;
      stop();
      go(Math.round(along * (longest - 1)));
    };
    svg.toStep();
    return svg;
  }

  // --- moving: only what follows the step ---
  function move() {
    frame = 0;
    const text = `step ${state.step} of ${longest - 1}`;
    set(Object.assign(slider, { value: state.step }), { "aria-valuetext": text });
    setText(where, text);
    for (const each of moving) each();
  }

  function go(step) {
    const before = state.step;
    state.step = Math.min(longest - 1, Math.max(0, step));
    if (state.step === before) return;
    later();
    if (!playing) remember(false);
  }

  function start() {
    if (state.step === longest - 1) go(0);
    const next = () => (state.step < longest - 1 ? go(state.step + 1) : stop());
    playing = setInterval(next, Math.max(30, (1000 * RUN_SECONDS) / longest));
    where.ariaLive = "off"; // a reader is not told every step
    setText(play, "Stop");
  }

  function stop() {
    if (!playing) return;
    clearInterval(playing);
    playing = 0;
    where.ariaLive = "polite";
    setText(play, "Play");
    remember(false);
  }

  function choose(change) {
    Object.assign(state, change);
    build();
    remember(true);
  }

  /** A strip of pictures, loaded when it is first asked for. */
  function image(source) {
    if (source && !images.has(source)) {
      const held = { ready: false, picture: new Image() };
      held.picture.onload = () => { held.ready = true; later(); };
      held.picture.src = source;
      images.set(source, held);
      if (images.size > KEPT) images.delete(images.keys().next().value);
    }
    return images.get(source);
  }

  function later() { frame ||= requestAnimationFrame(move); }
  function stepOf(run) { return longest > 1 ? Math.round((state.step / (longest - 1)) * (run.steps - 1)) : 0; }
  function mapOf(run) { return run.maps.find((map) => map.name === state.map); }

  // --- keys and address ---
  function key(event) {
    const by = event.shiftKey ? 10 : 1, sample = (offset) => samples[samples.findIndex((each) => each.id === state.sample) + offset];
    const actions = {
      ArrowLeft: () => go(state.step - by), ArrowRight: () => go(state.step + by), Home: () => go(0), End: () => go(longest - 1), Escape: () => {},
      j: () => sample(1) && choose({ sample: sample(1).id }), k: () => sample(-1) && choose({ sample: sample(-1).id }), " ": start,
    };
    const theirs = event.key === " " ? "button, summary, select, a, [type=checkbox]" : "select, textarea, pre";
    if (event.altKey || event.ctrlKey || event.metaKey || !actions[event.key] || event.target.matches?.(theirs)) return;
    event.preventDefault();
    const action = playing && event.key === " " ? () => {} : actions[event.key];
    stop();
    action();
  }

  /** Write the state behind the #: a choice as an entry of the history, a step in its place. */
  function remember(lasting) {
    if (!address) return;
    clearTimeout(noted);
    noted = setTimeout(() => {
      const words = new URLSearchParams({ sample: state.sample, step: state.step, ...state.tracks });
      for (const lane of state.arms) words.append("arm", lane.key);
      for (const name of ["map", "word", "gain"]) if (state[name] !== first[name]) words.set(name, state[name]);
      if (location.hash !== `#${words}`) history[lasting ? "pushState" : "replaceState"](null, "", `#${words}`);
    }, lasting ? 0 : 200);
  }

  function recall() {
    const words = new URLSearchParams(location.hash.slice(1)), number = (name, other) => (/^\d+$/.test(words.get(name)) ? +words.get(name) : other);
    const arms = lanes.filter((lane) => words.getAll("arm").includes(lane.key));
    Object.assign(state, first, arms.length ? { arms } : {}, { step: Math.min(longest - 1, number("step", first.step)), tracks: {} });
    if (samples.some((each) => each.id === number("sample", -1))) state.sample = number("sample");
    if (maps.some((map) => map.name === words.get("map"))) state.map = words.get("map");
    if (number("word", 0) < (wordsShown()?.length ?? 0)) state.word = number("word", 0);
    if (GAINS.includes(number("gain", 1))) state.gain = number("gain", 1);
    for (const { name } of groups) if (words.has(name)) state.tracks[name] = words.get(name);
    build();
  }

  const until = new AbortController(), { signal } = until;
  (address ? document : viewer).addEventListener("keydown", key, { signal });
  if (address) addEventListener("popstate", recall, { signal }); // also told of what is typed behind the #
  root.replaceChildren(viewer);
  (address ? recall : build)();
  return () => { stop(); clearTimeout(noted); watcher.disconnect(); until.abort(); root.replaceChildren(); };
}

export default { render: ({ model, el }) => mount(el, JSON.parse(model.get("payload"))) };

// --- pieces ---
function make(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  set(node, attributes);
  node.append(...children.flat(Infinity).filter((child) => child !== ""));
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
}

function chooser(text, key, pairs, chosen, change, spoken = text) {
  const options = pairs.map(([value, shown]) => make("option", { value, selected: value === chosen }, shown));
  const select = make("select", { "aria-label": spoken, "data-key": key, onchange: () => change(select.value) }, options);
  return make("label", { class: "tv-choice" }, text, select);
}

function swatch(colour, dash = "") {
  const line = { x1: 0, x2: 22, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash };
  return make("svg", { class: "tv-swatch", width: 22, height: 10, "aria-hidden": "true" }, make("line", line));
}

/** A text with what is between backticks as code. */
function spoken(text) { return text.split(/`([^`]+)`/).map((part, place) => (place % 2 ? make("code", {}, part) : part)); }

/** What stands on top: one sentence for each thing, and the command. */
function told(run, several, open) {
  const lines = run.sentences.map(({ label, text }) => make("div", {}, make("dt", {}, label), make("dd", {}, spoken(text))));
  const command = run.command && make("pre", { tabindex: "0", role: "region", "aria-label": `The command that made ${run.name}` }, make("code", {}, run.command));
  const title = several && make("summary", {}, `${run.name}: ${run.title}`);
  return make(several ? "details" : "div", { open }, title || "", make("dl", {}, lines), command);
}

/** Every arm but clean of every run, clean where it is alone; of several runs in colours of its own. */
function everyLane(runs) {
  const every = runs.flatMap((run) => run.arms.slice(run.arms.length > 1 ? 1 : 0).map((arm) => ({ run, arm, key: arm.name, colour: arm.colour })));
  return runs.length < 2 ? every : every.map((lane, place) => ({ ...lane, key: `${lane.run.name}:${lane.key}`, colour: PALETTE[place % 8] }));
}

function legend({ title, kind, low, high, log }) {
  return `${title}: ${kind === "heat" ? "dark to light" : "area of a ring"} is ${short(low)} to ${short(high)}${log ? ", logarithmic" : ""}. `;
}
function unit(track) { return ["", "1"].includes(track.unit) ? "" : ` (${track.unit})`; }
function note(text) { return make("p", { class: "tv-note" }, text); }
function distinct(items, name) { return items.filter((item, place) => items.findIndex((other) => name(other) === name(item)) === place); }
function placeOf(run, id) { return run.samples.findIndex((sample) => sample.id === id); }
function lastUpTo(steps, step) { return Math.max(0, steps.findLastIndex((each) => each <= step)); }
function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
function short(value) { return !Number.isFinite(value) ? "–" : value && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3)); }
function atCursor({ own, low, middle, high }, step) {
  return `${own ? `${short(own[step])}; ` : ""}all samples ${short(middle[step])} [${short(low[step])}, ${short(high[step])}]`;
}

/** Base64 of little-endian float32, decoded once. */
function floats(line, name) {
  const held = decoded.get(line) ?? decoded.set(line, {}).get(line);
  return (held[name] ??= new Float32Array(Uint8Array.from(atob(line[name]), (letter) => letter.charCodeAt(0)).buffer));
}

function greys(picture) {
  const pen = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, picture.width, picture.height);
}

function limits(lists, log) {
  const values = lists.flatMap((list) => [...list].filter((value) => Number.isFinite(value) && (!log || value > 0)));
  if (!values.length) return log ? [0.1, 1] : [0, 1];
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (log) return [Math.max(low, high / 1e6) / 1.1, high * 1.1];
  const edge = 0.06 * (high - low || Math.abs(high) || 1);
  return [low >= 0 && low < 8 * edge ? 0 : low - edge, high + edge];
}

function ticks(low, high, log, count = 4) {
  if (log && high / low > 5) {
    const decades = Array.from({ length: 40 }, (_, place) => 10 ** (place - 20)), parts = high / low > 60 ? [1] : [1, 2, 5];
    const all = decades.flatMap((decade) => parts.map((part) => +(part * decade).toPrecision(3)));
    const within = all.filter((value) => value >= low && value <= high);
    return within.filter((_, place) => place % Math.ceil(within.length / count) === 0);
  }
  const rough = (high - low) / (count + 1) || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const by = unit * [1, 2, 5, 10].find((each) => each * unit >= 0.999 * rough), from = Math.ceil(low / by), length = Math.floor(high / by) - from + 1;
  return Array.from({ length: Math.max(1, length) }, (_, place) => +((from + place) * by).toPrecision(12));
}
