/**
 * The viewer: paired trajectories under one time axis, in a page, from a server, or in a notebook.
 *
 * `mount(element, payload, {address})` builds it and returns what takes it away; the default export is an anywidget.
 * The payload is made by `analysis.viewer.payload`, where its form is described. A text of it is only ever set as text.
 *
 * With `address` the state is kept behind the # of the page, and read from there:
 *   #sample=3&arm=R4S32&arm=R0S63&step=17&error=whitened&map=mass&word=2&gain=4
 * `sample` is the index in the run, `error` (any group's name) the track shown of the group. Of several runs an arm is
 * RUN:ARM, and `step` counts in the longest run; the others stand where they are as far along.
 */

const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c564b"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const GAINS = [1, 2, 4, 8];
const PLOT = { height: 132, left: 46, right: 10, top: 8, bottom: 20 };
const RUN_SECONDS = 8; // a whole run, played
const KEPT = 200; // pictures held decoded
const DRAWN = new Set(["svg", "path", "line", "circle", "text", "g"]);

export function mount(root, payload, { address = false } = {}) {
  const runs = payload.runs;
  const longest = Math.max(...runs.map((run) => run.steps));
  const lanes = everyLane(runs);
  const groups = everyGroup(runs);
  const maps = distinct(runs.flatMap((run) => run.maps), (map) => map.name);
  const samples = distinct(runs.flatMap((run) => run.samples), (sample) => sample.id);
  const state = { sample: samples[0]?.id ?? 0, arms: lanes.slice(0, 1), step: longest - 1, map: "", word: 0, gain: 1, tracks: {} };
  const images = new Map();
  let moving = []; // what follows the step: functions that are called when it changes
  let frame = 0, playing = 0, undone = false;

  // --- the parts that stay ---

  const sentences = make("div", { class: "tv-sentences" }, runs.map((run, place) => told(run, runs.length > 1, place === 0)));
  const controls = make("div", { class: "tv-controls" });
  const slider = make("input", {
    type: "range", min: 0, max: longest - 1, step: 1, "aria-label": "Step", oninput: () => { stop(); go(+slider.value); },
  });
  const play = make("button", { type: "button", class: "tv-play", onclick: () => (playing ? stop() : start()) }, "Play");
  const where = make("output", { class: "tv-where" });
  const time = make("div", { class: "tv-time" }, play, slider, where);
  const pictures = make("div", { class: "tv-pictures" });
  const tracks = make("div", { class: "tv-tracks" });
  const viewer = make("section", { class: "tv", "aria-label": "Trajectories", tabindex: address ? null : "0" },
    sentences, controls, time, make("div", { class: "tv-body" }, pictures, tracks));
  root.replaceChildren(viewer);

  // --- building: once for every choice of sample, arms, tracks, map ---

  function build() {
    const focused = viewer.contains(document.activeElement) ? document.activeElement.dataset?.key : null;
    moving = [];
    controls.replaceChildren(...chooseSample(), ...chooseArms(), ...chooseMap());
    pictures.replaceChildren(...state.arms.flatMap(row));
    tracks.replaceChildren(...groups.map(panel).filter(Boolean));
    if (focused) viewer.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    move();
  }

  function chooseSample() {
    const options = samples.map((sample) => make("option", { value: sample.id, selected: sample.id === state.sample }, sample.label));
    return samples.length < 2 ? [] : [labelled("Sample", "sample", options, (value) => choose({ sample: +value }))];
  }

  function chooseArms() {
    if (lanes.length < 2) return [];
    const boxes = lanes.map((lane) => make("label", { class: "tv-chip" },
      make("input", { type: "checkbox", checked: state.arms.includes(lane), "data-key": `arm ${lane.key}`, onchange: () => toggle(lane) }),
      swatch(lane.colour), lane.key));
    return [make("fieldset", { class: "tv-arms" }, make("legend", {}, "Arms"), ...boxes)];
  }

  function toggle(lane) {
    const arms = lanes.filter((each) => state.arms.includes(each) !== (each === lane));
    choose({ arms: arms.length ? arms : [lane] });
  }

  function chooseMap() {
    const chosen = [];
    if (maps.length) {
      const options = [["", "nothing"], ...maps.map((map) => [map.name, map.title])].map(([value, text]) =>
        make("option", { value, selected: value === state.map }, text));
      chosen.push(labelled("On the picture", "map", options, (value) => choose({ map: value, word: 0 })));
    }
    const words = wordsShown();
    if (words) {
      const options = words.map((word, place) => make("option", { value: place, selected: place === state.word }, word));
      chosen.push(labelled("Word", "word", options, (value) => choose({ word: +value })));
    }
    if (runs.some((run) => run.pictures)) {
      const options = GAINS.map((gain) => make("option", { value: gain, selected: gain === state.gain }, `× ${gain}`));
      chosen.push(labelled("Difference", "gain", options, (value) => choose({ gain: +value })));
    }
    return chosen;
  }

  function wordsShown() {
    for (const run of runs) {
      const map = run.maps.find((each) => each.name === state.map), place = placeOf(run, state.sample);
      if (map?.words && place >= 0) return map.words[place];
    }
    return null;
  }

  /** One arm's pictures: clean, arm, difference of the step. */
  function row(lane) {
    const { run } = lane, place = placeOf(run, state.sample);
    if (!run.pictures) return [make("p", { class: "tv-note" }, `${lane.key}: no pictures were recorded (--record frames).`)];
    if (place < 0) return [make("p", { class: "tv-note" }, `${lane.key}: this sample is not among those kept of ${run.name}.`)];
    const { width, height, strips } = run.pictures;
    const scale = Math.max(1, Math.ceil(256 / Math.max(width, height)));
    const shown = [["clean", strips.clean?.[place]], [lane.arm.name, strips[lane.arm.name]?.[place]]];
    const canvases = ["clean", lane.key, "difference"].map((name) => ({
      name, canvas: make("canvas", { width: width * scale, height: height * scale, role: "img" }), caption: make("figcaption"),
    }));
    moving.push(() => {
      const step = stepOf(run), at = lastUpTo(run.pictures.steps, step), taken = run.pictures.steps[at];
      const [clean, arm] = shown.map(([, source]) => source && image(source));
      canvases.forEach(({ name, canvas, caption }, column) => {
        const pen = canvas.getContext("2d");
        pen.imageSmoothingEnabled = false;
        pen.globalCompositeOperation = "source-over";
        pen.clearRect(0, 0, canvas.width, canvas.height);
        const put = (picture) => pen.drawImage(picture, at * width, 0, width, height, 0, 0, canvas.width, canvas.height);
        if (column === 0 && clean?.ready) put(clean.picture);
        if (column > 0 && arm?.ready) put(arm.picture);
        if (column === 2) subtract(pen, clean, put);
        else if (state.map) overlay(pen, run, column ? lane.arm.name : "clean", place, step);
        const text = `${name}, ${run.pictures.what} in step ${taken}`;
        setText(caption, column === 2 ? `difference${state.gain > 1 ? ` × ${state.gain}` : ""}` : name);
        canvas.setAttribute("aria-label", text);
        canvas.title = text;
      });
    });
    const head = runs.length > 1 || state.arms.length > 1 ? [make("h3", {}, swatch(lane.colour), lane.key)] : [];
    const figures = canvases.map(({ canvas, caption }) => make("figure", {}, canvas, caption));
    const notes = [run.pictures.steps.length < run.steps && `${run.pictures.what} of ${run.pictures.steps.length} of ${run.steps} steps: the last one taken is shown.`, run.pictures.note];
    return [...head, make("div", { class: "tv-row" }, figures), make("p", { class: "tv-note" }, notes.filter(Boolean).join(" "))];
  }

  function subtract(pen, clean, put) {
    if (!clean?.ready) return;
    pen.globalCompositeOperation = "difference";
    put(clean.picture);
    pen.globalCompositeOperation = "lighter"; // each time twice as bright
    for (let gain = 1; gain < state.gain; gain *= 2) pen.drawImage(pen.canvas, 0, 0);
  }

  /** Heat over the cells of the grid, or circles whose area is the value. */
  function overlay(pen, run, arm, place, step) {
    const map = run.maps.find((each) => each.name === state.map), source = map?.strips[arm]?.[place];
    const strip = source && image(source);
    if (!strip?.ready) return;
    strip.grey ??= greys(strip.picture);
    const { data, width } = strip.grey, at = lastUpTo(map.steps, step), word = map.words ? state.word : 0;
    if (map.kind === "heat") { pen.fillStyle = "rgb(0 0 0 / 0.6)"; pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height); }
    const across = pen.canvas.width / map.width, down = pen.canvas.height / map.height;
    for (let y = 0; y < map.height; y++) {
      for (let x = 0; x < map.width; x++) {
        const value = data[4 * ((word * map.height + y) * width + at * map.width + x)] / 255;
        if (!(value > 0)) continue;
        if (map.kind === "heat") {
          pen.fillStyle = `rgb(255 ${Math.round(60 + 195 * value)} ${Math.round(20 + 130 * value ** 3)} / ${0.85 * value})`;
          pen.fillRect(x * across, y * down, across, down);
        } else {
          pen.beginPath();
          pen.arc((x + 0.5) * across, (y + 0.5) * down, Math.max(2, 0.9 * Math.sqrt(value) * across), 0, 2 * Math.PI);
          pen.lineWidth = 5; pen.strokeStyle = "#fff"; pen.stroke();
          pen.lineWidth = 2.5; pen.strokeStyle = "#c2185b"; pen.stroke();
        }
      }
    }
  }

  /** One group of tracks: heading, chooser, plot with the cursor, numbers at the cursor. */
  function panel(group) {
    const names = distinct(runs.flatMap((run) => run.tracks.filter((track) => track.group === group.name)), (track) => track.name);
    const one = group.show === "one", chosen = names.find((track) => track.name === state.tracks[group.name]) ?? names[0];
    const curves = one ? state.arms.flatMap((lane) => curve(lane, chosen.name, lane.key, lane.colour, ""))
      : names.flatMap((track, place) => curve(state.arms[0], track.name, track.title, PALETTE[place % 8], DASHES[place % 4]));
    if (!names.length) return null;
    const heading = make("h3", {}, one ? chosen.title : group.title + (lanes.length > 1 ? ` of ${state.arms[0].key}` : ""));
    const options = names.map((track) => make("option", { value: track.name, selected: track === chosen }, track.title));
    const head = make("div", { class: "tv-head" }, heading,
      one && names.length > 1 ? labelled("", group.name, options, (value) => choose({ tracks: { ...state.tracks, [group.name]: value } }), group.title) : "");
    if (!curves.length) return make("section", { class: "tv-panel" }, head, make("p", { class: "tv-note" }, "Not recorded for this arm."));
    const numbers = make("ul", { class: "tv-numbers" });
    const band = curves.some((each) => each.band) ? `Hatched: ${chosen.band_label}. ` : "";
    const help = make("p", { class: "tv-note" }, band + distinct(curves.map((each) => each.track.help), String).join(" "));
    const holder = make("div", { class: "tv-plot" });
    const draw = () => holder.replaceChildren(plot(curves, one ? chosen : { ...chosen, title: group.title }, holder.clientWidth || 600));
    draw.holder = holder;
    watcher.observe(holder);
    holder.redraw = draw;
    const values = curves.map((each) => make("output", { "aria-live": "off" }));
    numbers.append(...curves.map((each, place) => make("li", {}, swatch(each.colour, each.dash), `${each.label} `, values[place])));
    moving.push(() => {
      curves.forEach((each, place) => setText(values[place], atCursor(each, stepOf(each.run))));
      holder.firstChild?.toStep?.();
    });
    draw();
    return make("section", { class: "tv-panel" }, head, holder, numbers, help);
  }

  function curve(lane, name, label, colour, dash) {
    const track = lane.run.tracks.find((each) => each.name === name), line = track?.arms[lane.arm.name];
    if (!line) return [];
    const { run } = lane, place = placeOf(run, state.sample), all = floats(line, "values");
    const own = place < 0 ? null : all.subarray(place * run.steps, (place + 1) * run.steps);
    const band = track.band?.[lane.arm.name];
    return [{ run, track, label, colour, dash, own, low: floats(line, "low"), middle: floats(line, "middle"), high: floats(line, "high"),
      band: band && { low: floats(band, "low"), high: floats(band, "high") } }];
  }

  /** The plot as SVG, with `toStep` that puts cursor and dots where the step is. */
  function plot(curves, track, width) {
    const inner = { width: width - PLOT.left - PLOT.right, height: PLOT.height - PLOT.top - PLOT.bottom };
    const every = curves.flatMap((each) => [each.own, each.low, each.middle, each.high, each.band?.low, each.band?.high].filter(Boolean));
    const [low, high] = limits([...every, ...(track.reference == null ? [] : [[track.reference]])], track.log);
    const warp = track.log ? Math.log : (value) => value;
    const x = (step, steps) => PLOT.left + (steps > 1 ? (step / (steps - 1)) * inner.width : inner.width / 2);
    const y = (value) => PLOT.top + inner.height * (1 - (warp(value) - warp(low)) / (warp(high) - warp(low)));
    const seen = (value) => Number.isFinite(value) && (!track.log || value > 0);
    const line = (values, steps) => path(values, seen, (value, step) => `${x(step, steps).toFixed(1)} ${y(value).toFixed(1)}`);
    const area = (bottom, top, steps) => {
      const points = (values) => Array.from(values, (value, step) => `${x(step, steps).toFixed(1)} ${y(seen(value) ? value : low).toFixed(1)}`);
      return `M${points(top).join("L")}L${points(bottom).reverse().join("L")}Z`;
    };
    const cursor = make("line", { class: "tv-cursor", y1: PLOT.top, y2: PLOT.top + inner.height });
    const dots = curves.map((each) => make("circle", { r: 4, fill: each.colour, class: "tv-dot" }));
    const svg = make("svg", { width, height: PLOT.height, role: "img", "aria-label": `${track.title} (${track.unit}) over the steps` },
      make("g", { class: "tv-grid" }, ticks(low, high, track.log).map((value) => [
        make("line", { x1: PLOT.left, x2: width - PLOT.right, y1: y(value), y2: y(value) }),
        make("text", { x: PLOT.left - 5, y: y(value) + 4, "text-anchor": "end" }, short(value)),
      ]), ticks(0, longest - 1, false, 6).filter(Number.isInteger).map((step) =>
        make("text", { x: x(step, longest), y: PLOT.height - 5, "text-anchor": "middle" }, String(step)))),
      track.reference == null ? "" : make("line", { class: "tv-reference", x1: PLOT.left, x2: width - PLOT.right, y1: y(track.reference), y2: y(track.reference) }),
      curves.map((each) => [
        each.band ? make("path", { d: area(each.band.low, each.band.high, each.run.steps), class: "tv-band", stroke: each.colour }) : "",
        make("path", { d: area(each.low, each.high, each.run.steps), fill: each.colour, opacity: 0.16 }),
        make("path", { d: line(each.middle, each.run.steps), class: "tv-middle", stroke: each.colour, "stroke-dasharray": each.dash }),
        each.own ? make("path", { d: line(each.own, each.run.steps), class: "tv-own", stroke: each.colour, "stroke-dasharray": each.dash }) : "",
      ]), cursor, dots);
    svg.toStep = () => {
      const at = x(state.step, longest);
      cursor.setAttribute("x1", at); cursor.setAttribute("x2", at);
      curves.forEach((each, place) => {
        const step = stepOf(each.run), value = (each.own ?? each.middle)[step];
        dots[place].setAttribute("visibility", seen(value) ? "visible" : "hidden");
        if (!seen(value)) return;
        dots[place].setAttribute("cx", x(step, each.run.steps)); dots[place].setAttribute("cy", y(value));
      });
    };
    const follow = (event) => {
      const at = (event.clientX - svg.getBoundingClientRect().left - PLOT.left) / inner.width;
      stop();
      go(Math.round(Math.min(1, Math.max(0, at)) * (longest - 1)));
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.toStep();
    return svg;
  }

  // --- moving: only what follows the step ---

  function move() {
    frame = 0;
    slider.value = state.step;
    const text = `step ${state.step} of ${longest - 1}`;
    slider.setAttribute("aria-valuetext", text);
    setText(where, text);
    for (const each of moving) each();
  }

  function later() { frame ||= requestAnimationFrame(move); }

  function go(step) {
    step = Math.min(longest - 1, Math.max(0, step));
    if (step === state.step) return;
    state.step = step;
    later();
    if (!playing) remember(false);
  }

  function start() {
    if (state.step >= longest - 1) go(0);
    const began = performance.now(), from = state.step, pace = Math.max(30, (1000 * RUN_SECONDS) / longest);
    const tick = (now) => {
      go(from + Math.floor((now - began) / pace));
      if (state.step >= longest - 1) stop(); else playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
    play.textContent = "Stop";
  }

  function stop() {
    if (!playing) return;
    cancelAnimationFrame(playing);
    playing = 0;
    play.textContent = "Play";
    remember(false);
  }

  function choose(change) {
    Object.assign(state, change);
    build();
    remember(true);
  }

  function image(source) {
    let held = images.get(source);
    if (!held) {
      held = { ready: false, picture: new Image() };
      held.picture.onload = () => { held.ready = true; if (!undone) later(); };
      held.picture.src = source;
      images.set(source, held);
      if (images.size > KEPT) images.delete(images.keys().next().value);
    }
    return held;
  }

  const stepOf = (run) => (longest > 1 ? Math.round((state.step / (longest - 1)) * (run.steps - 1)) : 0);

  // --- keys and address ---

  function key(event) {
    const { target } = event;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") return stop();
    if (target.matches?.("select, textarea, input:not([type=range]):not([type=checkbox])")) return;
    const by = event.shiftKey ? 10 : 1, at = samples.findIndex((sample) => sample.id === state.sample);
    const nextSample = (offset) => samples[at + offset] && choose({ sample: samples[at + offset].id });
    const actions = {
      ArrowLeft: () => { stop(); go(state.step - by); }, ArrowRight: () => { stop(); go(state.step + by); },
      Home: () => { stop(); go(0); }, End: () => { stop(); go(longest - 1); },
      j: () => nextSample(1), k: () => nextSample(-1), " ": () => (playing ? stop() : start()),
    };
    if (event.key === " " && target.matches?.("button, summary, input, a")) return; // they have their own use of it
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  let noted = 0;
  function remember(lasting) {
    if (!address) return;
    clearTimeout(noted);
    const write = () => {
      const words = new URLSearchParams({ sample: state.sample, step: state.step, ...state.tracks });
      for (const lane of state.arms) words.append("arm", lane.key);
      if (state.map) words.set("map", state.map);
      if (state.word) words.set("word", state.word);
      if (state.gain > 1) words.set("gain", state.gain);
      if (location.hash !== `#${words}`) history[lasting ? "pushState" : "replaceState"](null, "", `#${words}`);
    };
    if (lasting) write(); else noted = setTimeout(write, 200);
  }

  function recall() {
    const words = new URLSearchParams(location.hash.slice(1)), step = words.get("step"), sample = words.get("sample");
    if (step !== null && step >= 0 && step < longest) state.step = Math.round(step);
    if (samples.some((each) => String(each.id) === sample)) state.sample = +sample;
    const named = lanes.filter((lane) => words.getAll("arm").includes(lane.key));
    if (named.length) state.arms = named;
    state.map = maps.some((map) => map.name === words.get("map")) ? words.get("map") : "";
    state.word = Math.min(Math.max(0, +words.get("word") || 0), (wordsShown()?.length ?? 1) - 1);
    state.gain = GAINS.includes(+words.get("gain")) ? +words.get("gain") : 1;
    for (const group of groups) if (words.has(group.name)) state.tracks[group.name] = words.get(group.name);
    build();
  }

  const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => target.firstChild?.getAttribute("width") !== String(target.clientWidth) && target.redraw?.()));
  const keyed = address ? document : viewer;
  keyed.addEventListener("keydown", key);
  if (address) { addEventListener("hashchange", recall); addEventListener("popstate", recall); recall(); } else build();

  return () => {
    undone = true;
    stop();
    clearTimeout(noted);
    cancelAnimationFrame(frame);
    watcher.disconnect();
    keyed.removeEventListener("keydown", key);
    removeEventListener("hashchange", recall);
    removeEventListener("popstate", recall);
    root.replaceChildren();
  };
}

export default { render: ({ model, el }) => mount(el, JSON.parse(model.get("payload"))) };

// --- small things ---

function make(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== ""));
  return node;
}

function labelled(text, key, options, change, hidden = text) {
  const select = make("select", { "aria-label": hidden, "data-key": key, onchange: () => change(select.value) }, options);
  return make("label", { class: "tv-choice" }, text, select);
}

function swatch(colour, dash = "") {
  return make("svg", { class: "tv-swatch", width: 22, height: 10, "aria-hidden": "true" },
    make("line", { x1: 0, x2: 22, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash }));
}

/** What stands on top: one sentence for each thing, and the command. */
function told(run, several, open) {
  const lines = run.sentences.map(({ label, text }) => make("div", {}, make("dt", {}, label), make("dd", {}, text)));
  const command = run.command ? [make("pre", { tabindex: "0", "aria-label": "The command that made it" }, make("code", {}, run.command))] : [];
  const body = [make("dl", {}, lines), ...command];
  return several ? make("details", { open }, make("summary", {}, `${run.name}: ${run.title}`), body) : make("div", {}, body);
}

function everyLane(runs) {
  const several = runs.length > 1;
  const lanes = runs.flatMap((run) => run.arms.filter((arm) => arm.name !== "clean").map((arm) => ({ run, arm, key: several ? `${run.name}:${arm.name}` : arm.name, colour: arm.colour })));
  if (several) lanes.forEach((lane, place) => { lane.colour = PALETTE[place % PALETTE.length]; });
  return lanes;
}

function everyGroup(runs) { return distinct(runs.flatMap((run) => run.groups), (group) => group.name); }

function distinct(items, name) { return [...new Map([...items].reverse().map((item) => [name(item), item])).values()].reverse(); }

function placeOf(run, id) { return run.samples.findIndex((sample) => sample.id === id); }

function lastUpTo(steps, step) { return Math.max(0, steps.findLastIndex((each) => each <= step)); }

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

function atCursor({ own, low, middle, high }, step) {
  return `${own ? `${short(own[step])}; ` : ""}all samples ${short(middle[step])} [${short(low[step])}, ${short(high[step])}]`;
}

/** Base64 of little-endian float32, decoded once. */
function floats(line, name) {
  line.decoded ??= {};
  return (line.decoded[name] ??= new Float32Array(Uint8Array.from(atob(line[name]), (letter) => letter.charCodeAt(0)).buffer));
}

function greys(picture) {
  const pen = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, picture.width, picture.height);
}

function path(values, seen, point) {
  let text = "", pen = "M";
  values.forEach((value, step) => {
    if (!seen(value)) { pen = "M"; return; }
    text += pen + point(value, step);
    pen = "L";
  });
  return text;
}

function limits(lists, log) {
  let low = Infinity, high = -Infinity;
  for (const values of lists) for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    low = Math.min(low, value); high = Math.max(high, value);
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) return [Math.max(low, high / 1e6) / 1.1, high * 1.1];
  const edge = 0.06 * (high - low || Math.abs(high) || 1);
  return [low >= 0 && low < edge * 8 ? 0 : low - edge, high + edge];
}

function ticks(low, high, log, count = 4) {
  if (log) {
    const decades = Array.from({ length: 2 + Math.log10(high) - Math.floor(Math.log10(low)) }, (_, place) => 10 ** (Math.floor(Math.log10(low)) + place));
    const inside = decades.flatMap((decade) => (high / low > 60 ? [decade] : [decade, 2 * decade, 5 * decade])).filter((value) => value >= low && value <= high);
    const apart = Math.ceil(inside.length / count);
    return inside.length > 1 ? inside.filter((_, place) => place % apart === 0) : ticks(low, high, false, count);
  }
  const rough = (high - low) / count || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const by = [1, 2, 5, 10].find((each) => each * unit >= rough * 0.999) * unit;
  const first = Math.ceil(low / by - 1e-9);
  return Array.from({ length: Math.max(1, Math.floor(high / by + 1e-9) - first + 1) }, (_, place) => +((first + place) * by).toPrecision(12));
}

function short(value) {
  if (!Number.isFinite(value)) return "–";
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
}
