"""Is an arm good enough? Same picture, same quality with another picture, worse, or undecided: what `trace gate` asks.

`margins` says how much is too much, `evidence` turns scores of paired pictures into series that are tested, `decide`
answers from them, `gate` reads runs, `words` tells it on a terminal, in Markdown and as data. Nothing here measures a
picture: scores are read from the store.
"""
