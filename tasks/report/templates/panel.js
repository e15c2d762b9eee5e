/* Panel */
const panel = $("#panel");
let current = null; // { id, links } of the gallery it was opened from
const SHOW = ["all", "image", "witness", "density"];
const show4 = (value) => (value === null || value === undefined ? "" : Number(value).toPrecision(4));

function open(link, links) {
  current = { id: link.closest(".card").dataset.id, links, at: link };
  fill();
  if (!panel.open) panel.showModal();
  if (document.activeElement.disabled) panel.focus(); // a disabled button that has the focus swallows keys
}
/* All that pass the filters, also behind "Show all", and as they did when the panel opened: a verdict must not end the walk. */
function passing(gallery) {
  return $$(".card[data-id]", gallery).filter(passes).map((card) => $(".open", card));
}
function step(by) {
  const next = current.links[current.links.indexOf(current.at) + by];
  if (next) open(next, current.links);
}
function view(name) {
  $(".frames").dataset.view = name;
  for (const button of $$("[data-view]", $(".views"))) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  for (const figure of $$("[data-frame]")) {
    const there = figure.dataset.frame === "image" || data.images[current.id].evidence;
    figure.hidden = !there || (name !== "all" && figure.dataset.frame !== name);
  }
  memory.write("mdmf-view", name);
}
function fill() {
  const image = data.images[current.id];
  const picture = image.thumbnail && `${data.pictures}/${image.thumbnail}`;
  const evidence = image.evidence;
  $("#panel-title bdi").textContent = image.caption || image.key;
  for (const frame of $$(".frame")) {
    const [base, map] = $$("img", frame);
    base.hidden = !picture;
    if (picture) base.src = picture;
    if (!map) { base.alt = image.caption || image.key; continue; }
    const which = frame.closest("figure").dataset.frame;
    map.hidden = !evidence;
    if (evidence) map.src = `${data.pictures}/${evidence[`${which}_map`]}`;
    map.alt = `${which} map`;
  }
  const missing = image.problem ?? (evidence ? null : data.noEvidence);
  $("#missing").hidden = !missing;
  $("#missing").textContent = missing ? `${picture ? "No evidence map" : "No picture and no evidence map"}: ${missing}` : "";
  box(evidence?.rarest.box);
  view(evidence ? memory.read("mdmf-view", "all") : "image");
  for (const [button, last] of [[$("#previous"), 0], [$("#next"), -1]]) {
    const end = current.links.at(last) === current.at;
    if (end && document.activeElement === button) panel.focus(); // keys would be lost with a button that is switched off
    button.disabled = end;
  }
  $("#nearest").replaceChildren(...(evidence ? nearest(image, evidence) : []));
  $("#facts").replaceChildren(...facts(current.id, image));
  pressVerdict();
}
function box(edges) {
  const frame = $(".box");
  frame.hidden = $("#box-note").hidden = !edges;
  if (!edges) return;
  const [top, left, bottom, right] = edges.map((share) => `${100 * share}%`);
  Object.assign(frame.style, { top, left, width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` });
}
function nearest(image, evidence) {
  const table = (title, patch) => element("div", {},
    element("p", {}, title, element("br"), element("span", { class: "soft" },
      `pixels ${patch.pixels[1]}, ${patch.pixels[0]} · witness ${show4(patch.witness)} · ${Number(100 * patch.rarity).toPrecision(2)} % of real patches are at least this rare`)),
    element("table", {},
      element("thead", {}, element("tr", {}, ...["bank point", "kernel", "distance / σ"].map((name, at) =>
        element("th", at ? { scope: "col", class: "n" } : { scope: "col" }, name)))),
      element("tbody", {}, ...patch.nearest.map(([point, kernel]) => element("tr", {},
        element("td", {}, `${image.domain} #${point}`), element("td", { class: "n" }, kernel.toFixed(4)),
        element("td", { class: "n" }, kernel > 0 ? Math.sqrt(-2 * Math.log(kernel)).toFixed(2) : "> 4"))))));
  const sources = (data.bankSources[image.domain] ?? []).map((entry) => `${entry.source} (${entry.images})`).join(", ");
  return [
    element("h3", {}, "Nearest bank patches"),
    element("div", { class: "pair" }, table("of the rarest patch", evidence.rarest), table("of the most ordinary patch", evidence.commonest)),
    element("p", { class: "soft" }, `A bank keeps signatures, not pictures: its points go by slice and number.${sources ? ` Real images behind this slice: ${sources}.` : ""}`),
  ];
}
function list(rows) {
  const made = element("dl");
  for (const [name, value, hint, kind = ""] of rows) {
    if (value === null || value === undefined || value === "") continue;
    made.append(element("dt", {}, name), element("dd", {}, element("bdi", {}, String(value)), hint ? element("span", { class: `hint ${kind}` }, ` ${hint}`) : null));
  }
  return made;
}
function labelled(table, image) {
  const shown = (value, type) => (value === null ? null : type === "DOUBLE" ? show4(value) : type === "BOOLEAN" ? (value ? "yes" : "no") : value);
  return data.columns.filter((column) => column.tables.includes(table)).map(({ name, label, hint, sql }) => [label, shown(image[name], sql), hint]);
}
function facts(id, image) {
  const known = data.lineage;
  const run = data.runs[image.run_id] ?? {};
  const budget = `at a ${Number((100 * data.line).toPrecision(3))} % budget`;
  const sql = `SELECT * FROM scored WHERE image_id = '${id}'`;
  return [
    element("h3", {}, "Score"), list([
      ["decision", image.decision, image.reviewed ? "by review" : `by score, ${budget}`],
      ["reviewed", image.reviewed && `${image.reviewed} by ${image.reviewer}, ${image.reviewed_at}`, image.reviewer_said],
      ["by score", image.reviewed && image.by_score, budget],
      ["p-value", show4(image.p_value)],
      ...labelled("scores", image), ["patches", image.patches, `farthest: #${image.top_patch}`],
      ["witness", image.evidence ? show4(image.evidence.witness) : null, "mean = self - cross"],
      ["rare patches", image.evidence ? `${image.evidence.rare} of ${image.patches}` : null, "at most 1 % of real ones so rare"],
      ["slice", image.domain, image.in_support ? "" : "does not cover this image"]]),
    element("h3", {}, "Image"), list([
      ["key", image.key], ["shard", image.shard_url], ["source", image.source], ["url", image.url], ["caption", image.caption],
      ["file", `${image.format} ${image.width} × ${image.height}, ${Math.ceil(image.bytes / 1000)} kB`],
      ...labelled("images", image), ["border", image.border_px ? `${image.border_px} px, not scored` : null], ["sha256", image.sha256], ["image id", id]]),
    element("h3", {}, "Lineage"), list([
      ["scorer", known.scorer, known.scorer_digest, "digest"], ["bank", `${known.bank}@${known.bank_version}`, known.bank_digest, "digest"],
      ["calibration", `${known.calibration_images} real images`, known.calibration_digest, "digest"],
      ["run", image.run_id, run.started ?? ""], ["scored", image.scored_at], ["code", run.code_version ? `mdmf ${run.code_version}` : null],
      ["device", run.device], ["source", run.source]]),
    element("h3", {}, "SQL"), element("div", { class: "sql" }, element("pre", {}, element("code", {}, sql)),
      element("button", { type: "button", class: "copy", "data-copy": sql }, "Copy")),
  ];
}
function pressVerdict() {
  const found = verdicts[current.id];
  for (const button of $$("[data-verdict]", panel)) button.setAttribute("aria-pressed", String(found?.verdict === button.dataset.verdict));
  $("#reason").value = found?.reason ?? "";
}
function judge(verdict) {
  mark(current.id, verdicts[current.id]?.verdict === verdict ? null : verdict, $("#reason").value);
  pressVerdict();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest(".card .open");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  open(link, passing(link.closest(".gallery")));
});
panel.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === panel || button?.id === "close") panel.close();
  else if (button?.id === "previous") step(-1);
  else if (button?.id === "next") step(1);
  else if (button?.dataset.view) view(button.dataset.view);
  else if (button?.dataset.verdict) judge(button.dataset.verdict);
});
panel.addEventListener("close", () => {
  if (current.at.closest(".card").hidden) current.at.closest(".gallery").dataset.whole = "";
  filter();
  current.at.focus();
});
panel.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
  const verdict = { g: "generated", r: "real", u: "unsure" }[event.key.toLowerCase()];
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); step(event.key === "ArrowLeft" ? -1 : 1); }
  else if (verdict) judge(verdict);
  else if (/^[1-4]$/.test(event.key) && data.images[current.id].evidence) view(SHOW[event.key - 1]);
});
$("#reason").addEventListener("change", () => {
  const found = verdicts[current.id];
  if (found) mark(current.id, found.verdict, $("#reason").value);
});
for (const base of $$(".frame > img:first-child")) {
  base.addEventListener("load", () => base.parentElement.style.setProperty("--ratio", base.naturalWidth / base.naturalHeight));
}
$("#opacity").addEventListener("input", (event) => {
  for (const map of $$(".map")) map.style.opacity = event.target.value / 100;
});
$("#opacity").dispatchEvent(new Event("input"));

showVerdicts();
filter();
