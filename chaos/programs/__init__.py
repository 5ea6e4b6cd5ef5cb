"""Small trainings, one for each kind of input and each feature of Keras that a resume has to carry over.

`registry` says what a program is, `recorder` what it writes about itself; the other modules are the programs by theme. One program runs by
`python -m chaos.programs NAME --directory RUN --log RUN.log --out RUN.json`; `chaos.inputs` runs and kills them all.
"""
