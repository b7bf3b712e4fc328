"""What the viewer shows of a run, as one JSON document: numbers of the measures, pictures, maps and sentences.

`payload.payload(runs)` makes it and `viewer.js` reads it, in a page, from the server of `trace view` and in a notebook.
Nothing is computed here that a measure computes.
"""
