"""What `trace reproduce` is made of: recipes, command lines, what they cost, published values beside ours, a page.

`recipe` reads a file of `tracer/cli/recipes/` and fills in its words for one scale; `lines` makes command lines of it
that go on where they stopped; `cost` adds up what they will take; `beside` sets what came out beside what a paper says;
`page` writes all of it down. The command itself is `tracer.cli.reproduce`.
"""
