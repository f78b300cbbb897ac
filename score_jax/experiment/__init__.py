"""The experiment: stages and arms as data, the resources of a run, results of stages."""
