"""Start `jaxllm train` somewhere: `launch/run PLACE [VERB] [options] -- EXPERIMENT [--run DIR] [--a.b=c ...]`.

A launch is a bash script. Each place renders one from the command line, as a pure function; a dry run prints it, a real
run writes it to `LOGS/JOB/` and executes it. On every host that script ends in the same line, `launch/host.sh run`.
Only the standard library is used, so that a login node or a laptop without jaxllm can launch.
"""
