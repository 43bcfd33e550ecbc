// A column's button sorts its table by it; what has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const number = header.classList.contains("number");
    header.querySelector("button").addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const falls = before ? before === "ascending" : number;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const value = (row) => (number ? row.cells[column].dataset.value : row.cells[column].textContent.trim());
      const compare = (a, b) => (number ? a - b : a.localeCompare(b, "en", { numeric: true }));
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return falls ? compare(y, x) : compare(x, y);
      });
      body.append(...rows);
    });
  });
}
