// The page of `hiif-deploy serve`: a viewer with a divider between two models, and upscaling.

import { across, element, request, say, seconds } from "/page/common.js";
import {
  clipOf, isClip, nameFrame, readClip, readClips, removeClip, sampleOf, sendClip, showClip, showPlayer,
} from "/page/clips.js";

const FACTOR = 16; // of the virtual image that the viewer shows
const PLAN_DELAY_MS = 300; // after the last change, before the server is asked how long it would take
const SCRUB_DELAY_MS = 150; // after the last movement, before another frame of a clip is opened
const SHOWN = "hiif-deploy-shown"; // key of the last picture in the browser's storage

const picture = element("picture"), model = element("model"), other = element("other"), precision = element("precision");
const stage = element("stage"), divider = element("divider");
const size = element("size"); // empty: the scale counts
const scale = element("scale"), slider = element("slider"), format = element("format"), progress = element("progress");
const frame = element("frame"), container = element("container");
const start = element("start"), cancel = element("cancel"), download = element("download"), remove = element("remove");
const uploads = new Set(); // ids of the pictures that this page has sent

let viewer = null; // OpenSeadragon's, where it is installed
let share = 0.5; // where the divider stands, of the stage's width
let job = null; // URL of the job that runs
let cancelling = false; // whether that job is
let planning = 0; // timer of the next plan
let suited = ""; // why the picture has its model
let scrubbing = 0; // timer of the next frame
const precisions = new Map(); // name of a model → its precisions, the server's own first
let plans = 0; // number of the newest plan: answers to older ones are not shown

const clip = () => clipOf(picture.value);

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

// Selects a model, and its own precision unless it has the one that was chosen. A clip's model may have gone since.
function select(name, wanted = precision.value) {
  model.value = precisions.has(name) ? name : model.options[0].value;
  const known = precisions.get(model.value);
  precision.replaceChildren(...known.map((value) => new Option(value)));
  precision.value = known.includes(wanted) ? wanted : known[0];
}

// The model as an image's name has it, with a precision that is not its own.
const chosen = () => precision.selectedIndex ? `${model.value}@${precision.value}` : model.value;

// Sets the model that suits the picture: another one for a compressed or noisy picture.
async function suit() {
  suited = "";
  if (clip()) select(clip().model, clip().precision);
  if (clip() || !picture.value) return;
  const found = await request(`/v1/pictures/${encodeURIComponent(picture.value)}`);
  select(found.model);
  const kinds = [found.jpeg && `JPEG of quality ${Math.round(found.jpeg)}`, found.noise && "noise"].filter(Boolean);
  suited = kinds.length ? ` (${kinds.join(", ")}: ${found.model} was chosen; Model selects another)` : "";
}

// Opens what is chosen; with `keepsView` at the place and the zoom of what was open before.
function openImages(keepsView = false) {
  const name = clip() ? sampleOf(clip()) : picture.value;
  if (!viewer || !name) return;
  const view = keepsView && viewer.isOpen() ? viewer.viewport.getBounds() : null;
  viewer.close();
  const id = encodeURIComponent(name);
  const images = [other.value, chosen()].map((value) => `${id}@${FACTOR}x@${value}`);
  viewer.open(images.map((image) => ({ tileSource: `/iiif/${image}/info.json`, x: 0, y: 0, width: 1 })));
  viewer.addOnceHandler("open", () => {
    if (view) viewer.viewport.fitBounds(view, true);
    placeDivider();
  });
}

async function show() {
  download.hidden = true;
  element("left-name").textContent = other.value;
  element("right-name").textContent = chosen().replace("@", " ");
  localStorage.setItem(SHOWN, picture.value);
  offerRemoval();
  showClip(clip());
  openImages();
  try {
    if (clip()) await takeUp(await readClip(clip().id));
    else plan();
  } catch (error) {
    say(error.message);
  }
}

// Goes on with a clip that waits, runs or is done, as after a reload.
async function takeUp(state) {
  if (job) return;
  if (["queued", "running"].includes(state.status)) {
    job = `/v1/clips/${state.id}`;
    begin();
  } else if (state.status === "done") {
    offer(`/v1/clips/${state.id}`, state);
  } else {
    plan();
  }
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
  try {
    if (isClip(file)) {
      const sent = await sendClip(file, new URLSearchParams({ ...computed(), ...target() }));
      addPicture(`clip:${sent.id}`, sent.clip);
      await show();
      return;
    }
    const form = new FormData();
    form.append("file", file, file.name);
    const sent = await request("/v1/pictures", { method: "POST", body: form });
    uploads.add(sent.id);
    addPicture(sent.id, sent.name);
    await suit();
    await show();
  } catch (error) {
    showClip(clip());
    say(error.message);
  }
}

element("file").addEventListener("change", ({ target: input }) => {
  const file = input.files[0];
  input.value = ""; // The same file again would be no change.
  upload(file);
});
document.addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("dropping"); });
document.addEventListener("dragleave", () => stage.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  upload(event.dataTransfer.files[0]);
});

// ---- upscaling

const computed = () => ({ model: model.value, precision: precision.value });
const target = () => size.value ? { size: size.value } : { scale: scale.value };

function order() {
  const found = new URLSearchParams({ ...computed(), ...target() });
  found.set("format", (clip() ? container : format).value);
  if (!clip()) found.set("picture", picture.value);
  return found;
}

function tellPlan(found) {
  const frames = found.frames ? `, ${found.frames} frames` : "";
  const disk = found.frames ? ` of memory, ${found.disk_mib} MiB of disk` : "";
  const time = seconds(found.seconds_planned ?? found.seconds);
  say(`${across(found.source)} → ${across(found.target)}${frames}: about ${time}, ${found.memory_mib} MiB${disk}${suited}`);
}

function plan() {
  clearTimeout(planning);
  const number = ++plans;
  planning = setTimeout(async () => {
    if (job || !picture.value || !element("order").checkValidity()) return;
    try {
      const found = await request(`${clip() ? `/v1/clips/${clip().id}` : "/v1"}/plan?${order()}`);
      if (number === plans) tellPlan(found);
    } catch (error) {
      if (number === plans) say(error.message);
    }
  }, PLAN_DELAY_MS);
}

// What runs is cancelled before it can be removed.
function offerRemoval() {
  remove.hidden = Boolean(job) || !(clip() || uploads.has(picture.value));
}

// The focus goes to `next` where it was on the button that is hidden, and stays where the user types.
function finish(next = start) {
  const isFocused = document.activeElement === cancel;
  job = null;
  offerRemoval();
  start.hidden = false;
  cancel.hidden = progress.hidden = true;
  if (isFocused) next.focus();
}

function offer(url, state) {
  download.href = `${url}/result`;
  download.download = state.name;
  download.hidden = false;
  say([`${state.name}: ${across(state.target)} in ${state.seconds.toFixed(1)} s`, ...state.notes].join("; "));
}

function follow() {
  const url = job, events = new EventSource(`${url}/events`);
  events.onerror = () => {
    // A clip goes on when the server starts again, and so does the browser, by itself.
    if (url.startsWith("/v1/clips/") && events.readyState !== EventSource.CLOSED) {
      cancelling = false; // A server that starts again may not know of it.
      say("The connection to the server was lost; trying again…");
      return;
    }
    events.close();
    if (!job) return;
    finish();
    say("The connection to the server was lost.");
  };
  events.onmessage = ({ data }) => {
    const state = JSON.parse(data);
    progress.value = state.steps_done / state.steps;
    const left = state.seconds_left === null ? "" : `, ${seconds(state.seconds_left)} left`;
    if (["queued", "running"].includes(state.status)) {
      if (!cancelling) say(`${state.status}: ${Math.round(100 * progress.value)} %${left}`);
      return;
    }
    events.close();
    if (state.status === "done") {
      offer(url, state);
      finish(download);
    } else {
      finish();
      say(state.status === "cancelled" ? "Cancelled." : state.error);
    }
  };
}

function begin() {
  cancelling = false;
  offerRemoval();
  start.hidden = download.hidden = true;
  cancel.hidden = progress.hidden = false;
  follow();
}

element("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (job) return;
  clearTimeout(planning);
  plans += 1;
  const own = clip() && `/v1/clips/${clip().id}`, focused = document.activeElement;
  start.disabled = true; // Submitting twice would queue two jobs, of which only the second could be cancelled.
  try {
    const { id } = await request(`${own ? `${own}/start` : "/v1/jobs"}?${order()}`, { method: "POST" });
    job = own ?? `/v1/jobs/${id}`;
    begin();
  } catch (error) {
    say(error.message);
  } finally {
    start.disabled = false;
  }
  // A button that is disabled loses the focus to the body. Elsewhere it is the user's.
  if ([focused, document.body].includes(document.activeElement)) (job ? cancel : focused).focus();
});
remove.addEventListener("click", async () => {
  const option = picture.selectedOptions[0];
  try {
    if (clip()) await removeClip(clip().id);
    else await request(`/v1/pictures/${option.value}`, { method: "DELETE" });
    uploads.delete(option.value);
    option.remove();
    picture.focus(); // The button is hidden.
    await suit();
    await show();
    say(`${option.text} was removed.`);
  } catch (error) {
    say(error.message);
  }
});
cancel.addEventListener("click", async () => {
  if (!job || cancelling) return; // A second DELETE could find a clip that is over, and would remove it.
  cancelling = true;
  say("Cancelling…");
  try {
    await request(job, { method: "DELETE" });
  } catch (error) {
    cancelling = false;
    say(error.message);
  }
});
slider.addEventListener("input", () => { scale.value = slider.value; size.value = ""; plan(); });
scale.addEventListener("input", () => { slider.value = scale.value; size.value = ""; plan(); });
size.addEventListener("input", plan);
for (const choice of [format, container]) choice.addEventListener("change", plan);
frame.addEventListener("input", () => {
  nameFrame();
  showPlayer(false);
  clearTimeout(scrubbing);
  scrubbing = setTimeout(() => openImages(true), SCRUB_DELAY_MS);
});
model.addEventListener("change", () => select(model.value));
for (const choice of [model, precision, other]) choice.addEventListener("change", () => { suited = ""; show(); });
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
  const [models, pictures, clips] = await Promise.all([request("/v1/models"), request("/v1/pictures"), readClips()]);
  for (const { name, precisions: known } of models.models) {
    precisions.set(name, known);
    model.add(new Option(name));
    other.add(new Option(name));
  }
  for (const { id, name } of pictures.pictures) picture.add(new Option(name, id));
  for (const { id, clip: name } of clips) picture.add(new Option(name, `clip:${id}`));
  const last = localStorage.getItem(SHOWN);
  if ([...picture.options].some(({ value }) => value === last)) picture.value = last;
  await suit();
  await show();
} catch (error) {
  say(error.message);
}
