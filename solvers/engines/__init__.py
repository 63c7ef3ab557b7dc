"""How a model is run and stopped: CP-SAT, and mixed-integer programs by several solvers."""
