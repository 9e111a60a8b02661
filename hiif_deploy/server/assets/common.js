// What all scripts of the page share.

export const element = (id) => document.getElementById(id);
export const say = (text) => { element("status").textContent = text; };
export const across = (size) => `${size.width}×${size.height}`;
export const seconds = (value) => value < 90 ? `${Math.max(1, Math.round(value))} s` : `${Math.round(value / 60)} min`;

export async function request(path, options) {
  const answer = await fetch(path, options);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const said = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(said.error ?? `the server answered ${answer.status}`), { status: answer.status });
}
