"""What becomes of a run outside: checks, conversion, merged models, many adapters on one base, and a model card; and
the run itself, written out for other tools.

    script.py, notebook.py   the run again, on transformers and PEFT alone; parts.py and method_code.py write their code
    peft_config.py           our settings of a method in PEFT's words: the one place
    order.py                 the rows of a run in the order in which it saw them
    tensorboard.py           its curves as TensorBoard event files
    bundle.py                all of it in one zip, with checksums
    link.py                  its settings as a link, and back

These import no torch, so that a page can offer them.
"""
