"""Runs Patroni's patronictl many times with one start of Python: reads a JSON list of arguments and
an input a line, forks, and prints a JSON object of exit code and output a line."""
import json
import os
import sys
import tempfile

from patroni.ctl import ctl


def run(arguments, told):
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as err:
        given.write(told.encode())
        given.seek(0)
        child = os.fork()
        if child == 0:
            for number, file in enumerate((given, out, err)):
                os.dup2(file.fileno(), number)
            sys.stdin = open(0)
            sys.argv = ["patronictl", *arguments]
            code = 1
            try:
                ctl(prog_name="patronictl")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return {"code": status, "out": texts[0], "err": texts[1]}


for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
