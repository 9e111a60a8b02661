// Clips on the page: the player of the source, its sampled frames, and the clips that this browser has sent.

import { element, request } from "/page/common.js";

const KEY = "hiif-deploy-clips"; // of the ids in the browser's storage: whoever knows an id has the clip
const SUFFIX = /\.(mkv|mp4|mov|webm|m4v|avi|ts|m2ts|mts|mpg|mpeg|wmv|flv|mxf|ogv|y4m|nut|3gp)$/i;
const bar = element("clip"), player = element("player"), play = element("play"), frame = element("frame");
const container = element("container");
const clips = new Map(); // id → its state when it was read last
const files = new Map(); // id → URL of the file, where this page has sent it

export const isClip = (file) => file.type.startsWith("video/") || SUFFIX.test(file.name);
export const clipOf = (value) => clips.get(value.replace("clip:", ""));
export const sampleOf = (clip) => clip.samples[frame.value - 1];

export function showPlayer(shown) {
  player.hidden = !shown;
  play.textContent = shown ? "Compare frames" : "Play source";
  if (!shown) player.pause();
}

// Other tabs change the list too, so every change begins with what is stored.
const storedIds = () => JSON.parse(localStorage.getItem(KEY) ?? "[]");
const storeIds = (ids) => localStorage.setItem(KEY, JSON.stringify(ids));

function forget(id) {
  clips.delete(id);
  files.delete(id);
  storeIds(storedIds().filter((stored) => stored !== id));
}

export async function sendClip(file, order) {
  const url = URL.createObjectURL(file);
  player.src = url;
  showPlayer(true);
  order.set("name", file.name);
  order.set("start", "false");
  try {
    const state = await request(`/v1/clips?${order}`, { method: "POST", body: file });
    clips.set(state.id, state);
    files.set(state.id, url);
    storeIds([...storedIds(), state.id]);
    return state;
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
}

export async function removeClip(id) {
  await request(`/v1/clips/${id}`, { method: "DELETE" });
  forget(id);
}

export async function readClip(id) {
  const state = await request(`/v1/clips/${id}`);
  clips.set(id, state);
  return state;
}

// The clips of earlier visits that the server still has. One that cannot be read now, as from a busy server, stays stored.
export async function readClips() {
  const found = await Promise.all(storedIds().map((id) => readClip(id).catch(({ status }) => {
    if (status === 404) forget(id);
    return null;
  })));
  return found.filter(Boolean);
}

// Shows the controls of a clip, or hides them where a picture is shown.
export function showClip(clip) {
  bar.hidden = container.parentElement.hidden = !clip;
  element("format").parentElement.hidden = Boolean(clip);
  showPlayer(false);
  if (!clip) return;
  const source = files.get(clip.id) ?? `/v1/clips/${clip.id}/source`;
  if (player.getAttribute("src") !== source) player.src = source; // An upload that failed was played meanwhile.
  if (bar.dataset.id === clip.id) return;
  bar.dataset.id = clip.id;
  frame.max = Math.max(1, clip.samples.length);
  frame.value = 1;
  container.value = clip.name.slice(clip.name.lastIndexOf(".") + 1);
  if (!container.value) container.value = "mkv";
  nameFrame();
}

export function nameFrame() {
  const text = `${frame.value} of ${frame.max}`;
  element("frame-name").textContent = text;
  frame.setAttribute("aria-valuetext", text);
}

play.addEventListener("click", () => {
  showPlayer(player.hidden);
  if (!player.hidden) player.play().catch(() => {}); // The player itself shows what it cannot play.
});
