// The page of `hiif-deploy serve`: a viewer with a divider between two models, and the upscaling of pictures.

const FACTOR = 16; // of the virtual image that the viewer shows
const PLAN_DELAY_MS = 300; // after the last change, before the server is asked how long it would take

const element = (id) => document.getElementById(id);
const picture = element("picture"), model = element("model"), other = element("other");
const stage = element("stage"), divider = element("divider");
const scale = element("scale"), slider = element("slider"), format = element("format"), progress = element("progress");
const start = element("start"), cancel = element("cancel"), download = element("download");

let viewer = null; // OpenSeadragon's, where it is installed
let share = 0.5; // where the divider stands, of the stage's width
let job = null; // URL of the job that runs
let planning = 0; // timer of the next plan
let suited = ""; // why the picture has its model
let plans = 0; // number of the newest plan: answers to older ones are not shown

const say = (text) => { element("status").textContent = text; };
const across = (size) => `${size.width}×${size.height}`;
const seconds = (value) => value < 90 ? `${Math.max(1, Math.round(value))} s` : `${Math.round(value / 60)} min`;

async function request(path, options) {
  const answer = await fetch(path, options);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `the server answered ${answer.status}`);
}

function addPicture(id, name) {
  picture.add(new Option(name, id));
  picture.value = id;
}

// ---- the viewer

function placeDivider() {
  divider.style.left = `${100 * share}%`;
  divider.setAttribute("aria-valuenow", Math.round(100 * share));
  divider.setAttribute("aria-valuetext", `${Math.round(100 * share)} % ${other.value}`);
  const top = viewer?.world.getItemAt(1);
  if (!top) return;
  // Clips are in pixels of the image, so the divider's place follows every movement.
  const size = top.getContentSize();
  const at = top.viewerElementToImageCoordinates(new OpenSeadragon.Point(share * stage.clientWidth, 0)).x;
  const left = Math.min(Math.max(at, 0), size.x);
  top.setClip(new OpenSeadragon.Rect(left, 0, size.x - left, size.y));
  element("zoom").textContent = `×${(FACTOR * top.viewportToImageZoom(viewer.viewport.getZoom(true))).toFixed(1)}`;
}

function openViewer() {
  if (!window.OpenSeadragon) {
    say("The viewer is not installed (hiif-deploy serve --install-viewer); pictures can still be upscaled.");
    return;
  }
  viewer = OpenSeadragon({
    element: element("viewer"), showNavigationControl: false, drawer: "canvas", maxZoomPixelRatio: 2,
    visibilityRatio: 0.5, gestureSettingsMouse: { clickToZoom: false }, imageSmoothingEnabled: false,
    imageLoaderLimit: 3, // A browser has six connections to a server: progress and cancelling need some of them.
  });
  for (const event of ["update-viewport", "animation", "resize"]) viewer.addHandler(event, placeDivider);
  viewer.addHandler("tile-load-failed", ({ message }) => say(`A tile could not be loaded: ${message}`));
}

// Sets the model that suits the picture: another one for a compressed or noisy picture.
async function suit() {
  if (!picture.value) return;
  const found = await request(`/v1/pictures/${encodeURIComponent(picture.value)}`);
  model.value = found.model;
  const kinds = [found.jpeg && `JPEG of quality ${Math.round(found.jpeg)}`, found.noise && "noise"].filter(Boolean);
  suited = kinds.length ? ` (${kinds.join(", ")}: ${found.model} was chosen; Model selects another)` : "";
}

async function show() {
  download.hidden = true;
  element("left-name").textContent = other.value;
  element("right-name").textContent = model.value;
  plan();
  if (!viewer || !picture.value) return;
  viewer.close();
  const id = encodeURIComponent(picture.value);
  const images = [other, model].map(({ value }) => `${id}@${FACTOR}x@${encodeURIComponent(value)}`);
  viewer.open(images.map((name) => ({ tileSource: `/iiif/${name}/info.json`, x: 0, y: 0, width: 1 })));
  viewer.addOnceHandler("open", placeDivider);
}

function drag(event) {
  const box = stage.getBoundingClientRect();
  share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  placeDivider();
}

divider.addEventListener("pointerdown", (event) => {
  divider.setPointerCapture(event.pointerId);
  divider.addEventListener("pointermove", drag);
});
for (const end of ["pointerup", "pointercancel"]) {
  divider.addEventListener(end, () => divider.removeEventListener("pointermove", drag));
}
divider.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  share = Math.min(Math.max(share + steps[event.key], 0), 1);
  placeDivider();
});

// ---- pictures from outside

async function upload(file) {
  if (!file) return;
  say(`Sending ${file.name}…`);
  const form = new FormData();
  form.append("file", file, file.name);
  try {
    const sent = await request("/v1/pictures", { method: "POST", body: form });
    addPicture(sent.id, sent.name);
    await suit();
    await show();
  } catch (error) {
    say(error.message);
  }
}

element("file").addEventListener("change", (event) => upload(event.target.files[0]));
document.addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("dropping"); });
document.addEventListener("dragleave", () => stage.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  upload(event.dataTransfer.files[0]);
});

// ---- upscaling

const order = () => new URLSearchParams({
  picture: picture.value, model: model.value, scale: scale.value, format: format.value,
});

function plan() {
  clearTimeout(planning);
  const number = ++plans;
  planning = setTimeout(async () => {
    if (job || !picture.value || !scale.checkValidity()) return;
    try {
      const found = await request(`/v1/plan?${order()}`);
      if (number === plans) {
        say(`${across(found.source)} → ${across(found.target)}: about ${seconds(found.seconds)}, ${found.memory_mib} MiB${suited}`);
      }
    } catch (error) {
      if (number === plans) say(error.message);
    }
  }, PLAN_DELAY_MS);
}

function finish(text) {
  job = null;
  start.hidden = false;
  cancel.hidden = progress.hidden = true;
  say(text);
}

function follow() {
  const events = new EventSource(`${job}/events`);
  events.onerror = () => { events.close(); if (job) finish("The connection to the server was lost."); };
  events.onmessage = ({ data }) => {
    const state = JSON.parse(data);
    progress.value = state.steps_done / state.steps;
    const left = state.seconds_left === null ? "" : `, ${seconds(state.seconds_left)} left`;
    say(`${state.status}: ${Math.round(100 * progress.value)} %${left}`);
    if (["queued", "running"].includes(state.status)) return;
    events.close();
    if (state.status === "done") {
      download.href = `${job}/result`;
      download.download = state.name;
      download.hidden = false;
      finish([`${state.name}: ${across(state.target)} in ${state.seconds.toFixed(1)} s`, ...state.notes].join("; "));
      download.focus();
    } else {
      finish(state.status === "cancelled" ? "Cancelled." : state.error);
    }
  };
}

element("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (job) return;
  clearTimeout(planning);
  plans += 1;
  download.hidden = true;
  try {
    job = `/v1/jobs/${(await request(`/v1/jobs?${order()}`, { method: "POST" })).id}`;
  } catch (error) {
    say(error.message);
    return;
  }
  start.hidden = true;
  cancel.hidden = progress.hidden = false;
  cancel.focus();
  follow();
});
cancel.addEventListener("click", () => job && request(job, { method: "DELETE" }));
slider.addEventListener("input", () => { scale.value = slider.value; plan(); });
scale.addEventListener("input", () => { slider.value = scale.value; plan(); });
format.addEventListener("change", plan);
for (const choice of [model, other]) choice.addEventListener("change", () => { suited = ""; show(); });
picture.addEventListener("change", async () => {
  try {
    await suit();
    await show();
  } catch (error) {
    say(error.message);
  }
});

// ---- the beginning

openViewer();
try {
  const [models, pictures] = await Promise.all([request("/v1/models"), request("/v1/pictures")]);
  for (const { name } of models.models) {
    model.add(new Option(name));
    other.add(new Option(name));
  }
  for (const { id, name } of pictures.pictures) picture.add(new Option(name, id));
  await suit();
  await show();
} catch (error) {
  say(error.message);
}
