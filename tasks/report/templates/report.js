"use strict";
// Everything here is an addition: without it the page still shows all galleries and figures.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);
const FIRST = 24; // cards of a gallery before "Show all"
document.documentElement.classList.add("scripted");

/* An element with text and children; text is never read as HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/* What this browser remembers; nothing where storage is switched off. */
const memory = {
  read(key, otherwise) {
    try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
  },
  write(key, value) {
    try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* the page works without */ }
  },
};

/* Theme */
const theme = memory.read("mdmf-theme", null);
if (theme) document.documentElement.dataset.theme = theme;
$("#theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  memory.write("mdmf-theme", document.documentElement.dataset.theme);
});

/* Copying; the older way serves pages that come over plain http. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await copy(button.dataset.copy);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

/* Verdicts, kept by warehouse so that another report of it knows them */
const STORE = `mdmf-verdicts ${data.warehouse}`;
const verdicts = memory.read(STORE, {});
const filters = $("#filters");
filters.reviewer.value = memory.read("mdmf-reviewer", "");
filters.reviewer.addEventListener("change", () => memory.write("mdmf-reviewer", filters.reviewer.value));

function mark(id, verdict, reason) {
  const image = data.images[id];
  const [shard_url, key] = image.shortened ? ["", ""] : [image.shard_url, image.key];
  if (verdict) verdicts[id] = { shard_url, key, verdict, reviewer: filters.reviewer.value, reason };
  else delete verdicts[id];
  memory.write(STORE, verdicts);
  showVerdicts();
}
function showVerdicts() {
  for (const card of $$(".card[data-id]")) {
    const found = verdicts[card.dataset.id];
    if (found) card.dataset.verdict = found.verdict; else delete card.dataset.verdict;
  }
  const count = Object.keys(verdicts).length;
  $("#download").disabled = count === 0;
  $("#download").textContent = count ? `Download verdicts (${count})` : "Download verdicts";
}
function csv() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const inert = (value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value); // no spreadsheet takes it for a formula
  const lines = Object.entries(verdicts).map(([id, found]) =>
    [id, inert(found.shard_url), inert(found.key), found.verdict, found.reviewer || filters.reviewer.value, found.reason].map(cell).join(","));
  return ["image_id,shard_url,key,verdict,reviewer,reason", ...lines].join("\r\n") + "\r\n";
}
$("#download").addEventListener("click", () => {
  const link = element("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "verdicts.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

/* Filters */
function passes(card) {
  const image = data.images[card.dataset.id];
  const p = Number(card.dataset.p);
  const found = verdicts[card.dataset.id]?.verdict;
  const text = filters.text.value.trim().toLowerCase();
  return (!filters.source?.value || card.dataset.source === filters.source.value)
    && (!filters.decision.value || card.dataset.decision === filters.decision.value)
    && (filters.low.value === "" || p >= Number(filters.low.value))
    && (filters.high.value === "" || p <= Number(filters.high.value))
    && (!text || `${image.key}\n${image.caption ?? ""}`.toLowerCase().includes(text))
    && (!filters.marked.value || (filters.marked.value === "no" ? !found : found === filters.marked.value));
}
function filter() {
  const shown = new Set();
  for (const gallery of $$(".gallery")) {
    const cards = $$(".card[data-id]", gallery);
    if (!cards.length) continue;
    const passing = new Set(cards.filter(passes));
    const most = "whole" in gallery.dataset ? passing.size : FIRST;
    let left = most;
    for (const card of cards) card.hidden = !(passing.has(card) && left-- > 0);
    $(".empty", gallery).hidden = passing.size > 0;
    const more = $(".more", gallery);
    more.hidden = passing.size <= most;
    more.textContent = `Show all ${passing.size}`;
    for (const card of passing) shown.add(card.dataset.id);
  }
  const all = Object.keys(data.images).length;
  $("#shown").textContent = shown.size === all ? `${all} images` : `${shown.size} of ${all} images`;
}
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
$("#clear").addEventListener("click", () => {
  for (const field of $$("input, select", filters)) if (field !== filters.reviewer) field.value = "";
  filter();
});
document.addEventListener("click", (event) => {
  if (!event.target.matches(".more")) return;
  event.target.closest(".gallery").dataset.whole = "";
  filter();
});

/* Arrow keys between the cards of a gallery */
document.addEventListener("keydown", (event) => {
  const link = event.target.closest?.(".card .open");
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0 }[event.key];
  if (!link || step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const links = $$(".card:not([hidden]) .open", link.closest(".gallery"));
  const columns = links.filter((other) => other.offsetParent.offsetTop === links[0].offsetParent.offsetTop).length;
  const move = step || (event.key === "ArrowUp" ? -columns : columns);
  links[links.indexOf(link) + move]?.focus();
});
