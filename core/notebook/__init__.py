"""Code that a learner runs: a Jupyter kernel process of their own, what may run there, and what comes out of it.

    kernels = Kernels(home)
    execution = kernels.run("owner", "03_lora_rank/count", "1 + 1", seconds=30)
    execution.outputs   # plain data: text, values, tables, figures, pictures, errors with the line

permission.py says whether code may run at all, kernel.py holds one process, kernels.py everybody's, outputs.py turns a
kernel's messages into plain data, sandbox.py builds what stands around the process; inside.py and process.py are what
runs in it. The server never runs a line of a learner's code itself.
"""
