"""Side-by-side measurements of Tezkor and its peers. Start them with `make bench`; see benchmarks/README.md."""
