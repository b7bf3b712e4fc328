// The filter above the list of runs: rows that hold every word typed stay.
const field = document.getElementById("filter");
if (field) {
  const rows = [...document.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.querySelector(".filter output");
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, place) => { row.hidden = !words.every((word) => texts[place].includes(word)); });
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  };
  field.addEventListener("input", filter);
  field.closest(".filter").hidden = false;
  filter(); // what the browser kept from before
}
