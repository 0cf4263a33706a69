"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Sort a table by a click on a column.
for (const table of all("table.sortable")) {
  all("th button", table).forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement, falls = head.getAttribute("aria-sort") === "descending";
    all("th", table).forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === ""); // rows without a value stay last
      const way = a.cells[column].dataset.value === undefined ? x.localeCompare(y) : x - y;
      return falls ? way : -way;
    };
    const body = table.tBodies[table.tBodies.length - 1];
    body.append(...[...body.rows].sort(order));
  }));
}

// Show the whole table of groups, of which a long one hides the end.
const groups = document.getElementById("groups"), whole = document.getElementById("whole");
whole?.addEventListener("click", () => { groups.classList.add("whole"); whole.parentElement.remove(); });

// Show only the groups and pairs with a text.
const search = document.getElementById("search"), found = document.getElementById("found");
search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase(), counts = [];
  groups.classList.toggle("whole", wanted !== "" || !whole?.isConnected);
  for (const [noun, selector] of [["group", "#groups tbody.each tr"], ["pair", ".pair"]]) {
    const items = all(selector);
    for (const item of items) item.hidden = !item.firstElementChild.textContent.toLowerCase().includes(wanted);
    const shown = items.filter(item => !item.hidden).length;
    if (items.length) counts.push(`${shown} ${noun}${shown === 1 ? "" : "s"}`);
  }
  for (const sheet of all("section.sheet")) sheet.querySelector(".none").hidden = sheet.querySelector(".pair:not([hidden])") !== null;
  found.textContent = wanted ? counts.join(", ") : "";
});

// Mark the section that is in view.
const places = new Map(all("#contents a").map(link => [document.querySelector(link.hash), link]));
const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    for (const link of places.values()) link.removeAttribute("aria-current");
    places.get(entry.target).setAttribute("aria-current", "true");
  }
}, {rootMargin: "-10% 0px -80% 0px"});
for (const section of places.keys()) watcher.observe(section);

// Lay another picture over a pair's own, from the left to the slider; flip between the two.
const viewer = document.getElementById("viewer");
let enlarged = null;
const lay = unit => {
  const frame = unit.querySelector(".frame"), slider = unit.querySelector("input");
  const pair = unit === viewer ? enlarged : unit;
  let over = frame.querySelector(".over");
  if (!over) { over = new Image(); over.className = "over"; frame.append(over); }
  const other = all("figure:not(.now) img", pair)[unit.querySelector("select").selectedIndex];
  over.src = other.src;
  over.alt = slider.value > 0 ? other.alt : "";
  frame.style.setProperty("--cut", `${slider.value}%`);
  frame.toggleAttribute("data-split", slider.value > 0 && slider.value < 100);
  unit.querySelector("[data-flip]").setAttribute("aria-pressed", slider.value === "100");
};
const flip = unit => {
  const slider = unit.querySelector("input");
  slider.value = slider.value > 50 ? 0 : 100;
  lay(unit);
};
const enlarge = (pair, figure) => {
  enlarged = pair;
  const own = pair.querySelector(".now img"), others = all("figure:not(.now)", pair);
  const base = viewer.querySelector(".frame img:not(.over)"), select = viewer.querySelector("select");
  base.src = own.src;
  base.alt = own.alt;
  select.replaceChildren(...all("option", pair).map(option => option.cloneNode(true)));
  select.selectedIndex = Math.max(others.indexOf(figure), 0);
  viewer.querySelector("strong").textContent = pair.querySelector(".now figcaption span").textContent;
  viewer.querySelector(".frame").style.setProperty("--ratio", own.naturalWidth / own.naturalHeight);
  viewer.querySelector("input").value = figure.classList.contains("now") ? 0 : 100;
  lay(viewer);
  viewer.showModal();
};
document.addEventListener("input", event => {
  const unit = event.target.closest(".compare")?.closest(".pair, dialog");
  if (unit && event.target.matches("select") && unit.querySelector("input").value === "0") flip(unit);
  else if (unit) lay(unit);
});
document.addEventListener("click", event => {
  const unit = event.target.closest(".pair, dialog");
  if (!unit) return;
  if (event.target.closest("[data-flip]") || (unit === viewer && event.target.closest(".frame"))) flip(unit);
  else if (event.target.closest("[data-close]")) viewer.close();
  else if (event.target.closest("figure button")) enlarge(unit, event.target.closest("figure"));
});
viewer.addEventListener("keydown", event => {
  if (event.key === " " && !event.target.matches("button, select, input")) { event.preventDefault(); flip(viewer); }
});
