"""Code that tries to get out of the sandbox, for test_hostile.py.

By kind, what is tried, each with the reasons that it may end for. Nothing in here does harm where it succeeds:
attempts are bounded, and what is written has the name MARK. In the code stand for what the test puts there:

  CANARY_FILES    list of files of the host with a secret in them
  CANARY_FOLDER   a folder of the host that is watched
  PARENT          the process id of the tool's parent
  MARK            part of the name of whatever is written
  # next step     a line between two steps of one session
"""

from __future__ import annotations

#: reaches the object that talks to the parent, as code can
WORKER = """
import json, struct
worker = final_answer_print.__closure__[0].cell_contents
def raw(body): worker._channel.sendall(struct.pack(">I", len(body)) + body)
def say(**message): raw(json.dumps({"id": worker._task, **message}).encode())
"""
LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*a):
  ctypes.set_errno(0)
  return libc.syscall(*a), ctypes.get_errno()
"""

HOSTILE: dict[str, list[tuple[str, str]]] = {
  "reads the host's files": [
    ("exception denied", "for f in CANARY_FILES:\n  print(open(f).read())"),
    (
      "ok",
      """
import os
for f in [*CANARY_FILES, "/etc/passwd", "/etc/shadow", "/etc/hostname"]:
  for way in (lambda: os.read(os.open(f, os.O_RDONLY), 99), lambda: open("/tmp/../" + f).read()):
    try:
      print("READ", way())
    except OSError as error:
      print(error.errno)
""",
    ),
    (
      "ok",
      """
import os
seen = 0
for place, folders, files in os.walk("/"):
  folders[:] = [f for f in folders if place.count("/") < 4 and f not in ("usr", "lib")]
  for name in files:
    seen += 1
    if "canary" in name and seen < 2000:
      print("READ", open(os.path.join(place, name)).read())
""",
    ),
    (
      "ok",
      """
import os
for base in ("/proc/1", "/proc/self", "/proc/PARENT", "/proc/2"):
  for name in ("environ", "cmdline", "maps", "mountinfo", "root/etc/passwd", "cwd", "fd/0"):
    try:
      print("READ", open(f"{base}/{name}", "rb").read(300))
    except OSError as error:
      print(error.errno)
print(os.listdir("/proc"))
""",
    ),
    ("exception denied", "import numpy as np\nprint(np.fromfile(CANARY_FILES[0], dtype='S1'))"),
    ("exception", "import pathlib\nprint(pathlib.Path(CANARY_FILES[0]).read_text())"),
    ("exception denied", "import fileinput\nprint(list(fileinput.input(CANARY_FILES)))"),
    ("exception denied", "exec(compile(open(CANARY_FILES[1]).read(), 'x', 'exec'))"),
  ],
  "reads the environment": [
    ("ok", "import os\nprint(dict(os.environ))"),
    ("ok", "import posix\nprint(posix.environ)"),
    (
      "ok",
      LIBC
      + """
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
i = 0
while environ[i]:
  print(environ[i])
  i += 1
""",
    ),
    (
      "ok killed",
      LIBC
      + """
environ = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
start = environ[0]
for n in range(0, 4000, 100):
  print(ctypes.string_at(start + n, 100))
""",
    ),
    ("ok", "import sys, os\nprint(sys.argv, sys.orig_argv, sys.flags, os.uname())"),
  ],
  "writes outside": [
    ("exception denied", "open(CANARY_FOLDER + '/MARK', 'w').write('x')"),
    (
      "ok",
      """
import os
places = "/ /usr/ /usr/lib/ /etc/ /var/tmp/ /dev/ /dev/shm/ /proc/ /sandbox/ /run/ /home/ /root/"
for place in places.split():
  try:
    open(place + "MARK", "w").close()
    print("WROTE", place)
  except OSError as error:
    print(error.errno)
""",
    ),
    ("denied", "import sympy\nopen(sympy.__file__, 'a').close()"),
    ("denied", "import score_jax.sandbox.worker as w\nopen(w.__file__, 'a').close()"),
    ("denied", "import os\nos.utime('/dev/null')"),
    ("denied", "import os\nos.chmod('/dev/null', 0o666)"),
    ("exception denied", "import os\nos.mkdir(CANARY_FOLDER + '/MARK')"),
    ("exception denied", "open('/usr/bin/env', 'ab').close()"),
    ("exception denied", "import numpy as np\nnp.save(CANARY_FOLDER + '/MARK', np.ones(3))"),
    (
      "exception denied",
      """
import tempfile
tempfile.NamedTemporaryFile(dir=CANARY_FOLDER, prefix='MARK', delete=False)
""",
    ),
  ],
  "reaches the network": [
    ("denied", "import socket\nsocket.create_connection(('127.0.0.1', 9), 0.5)"),
    ("denied", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"),
    ("denied", "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/systemd/private')"),
    ("denied", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    ("denied exception", "import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:9/', timeout=0.5))"),
    ("denied exception", "import socket\nprint(socket.getaddrinfo('localhost', 80))"),
    ("denied", "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].bind('\\0MARK')"),
    ("denied", "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)"),
    ("denied", "import socket\nsocket.socketpair()[0].bind('\\0MARK')"),
    ("ok", LIBC + "print(syscall(41, 2, 1, 0), syscall(425, 8, 0), syscall(198, 2, 1, 0))"),
  ],
  "starts processes": [
    ("process_limit", "import os\nprint(os.fork())"),
    ("process_limit", "import subprocess\nprint(subprocess.run(['id'], capture_output=True))"),
    ("ok", "import os\nprint(os.system('id'))"),
    ("process_limit", "import os\nprint(os.popen('id').read())"),
    ("denied", "import os\nos.execv('/bin/sh', ['sh', '-c', 'id'])"),
    ("process_limit denied", "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'id'], {})"),
    ("process_limit exception", "import os, pty\npty.fork()"),
    ("process_limit", "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()"),
    (
      "process_limit exception",
      """
import concurrent.futures as c
print(c.ProcessPoolExecutor(1).submit(print).result(1))
""",
    ),
  ],
  "bombs of processes": [
    (
      "ok",
      """
import os
for _ in range(200):
  try:
    if os.fork() == 0:
      os._exit(0)
    print("FORKED")
  except OSError as error:
    print(error.errno)
""",
    ),
    (
      "ok",
      """
import threading
for _ in range(200):
  try:
    threading.Thread(target=print).start()
    print("STARTED")
  except RuntimeError:
    pass
""",
    ),
    ("process_limit", "import _thread\n_thread.start_new_thread(print, ())"),
    ("process_limit exception", "from multiprocessing.pool import ThreadPool\nThreadPool(50)"),
    (
      "ok",
      LIBC
      + """
for call in (57, 58, 56, 435):
  print(syscall(call, 0x11, 0, 0, 0, 0) if call != 435 else syscall(435, 0, 0))
""",
    ),
  ],
  "bombs of memory": [
    ("memory timeout", "x = []\nfor _ in range(20_000): x.append('y' * 100_000)"),
    ("memory", "x = bytearray(10 ** 10)"),
    ("memory", "import numpy as np\nx = np.zeros((100_000, 100_000))"),
    ("memory", "x = 'a'\nfor _ in range(31): x += x"),
    ("memory exception", "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(100)]"),
    ("memory timeout", "x = {}\nfor i in range(10 ** 7): x[i] = [i]"),
    (
      "memory killed",
      """
x = []
for _ in range(2000):
  try:
    x.append(bytearray(1 << 20))
  except MemoryError:
    pass
print(len(x) > 500)
x = [[0] * 100_000 for _ in range(2000)]
""",
    ),
    ("memory exception killed", "x = []\nfor _ in range(10 ** 7): x = [x]\nprint(len(repr(x)))"),
  ],
  "memory that no limit counts": [
    ("exception", "for i in range(64):\n  open(f'f{i}', 'wb').write(bytes(1 << 20))"),
    ("exception", "for i in range(5000):\n  open(f'f{i}', 'w').close()"),
    ("exception", "with open('f', 'wb') as f:\n  f.truncate(1 << 40)\n  f.write(b'x')"),
    (
      "denied exception",
      """
import fcntl, os
for _ in range(60):
  _, end = os.pipe()
  fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
  os.write(end, bytes(1 << 20))
""",
    ),
    (
      "denied exception",
      """
import socket
hold, _ = socket.socketpair()
for _ in range(300):
  a, b = socket.socketpair()
  a.setblocking(False)
  a.send(bytes(100_000))
  socket.send_fds(hold, [b"x"], [a.fileno(), b.fileno()])
""",
    ),
    ("denied", "import os\nos.memfd_create('x')"),
    (
      "exception denied",
      """
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=1 << 20)
""",
    ),
    ("ok", LIBC + "print(syscall(29, 0, 1 << 20, 0o1600), syscall(68, 0, 0o1600), syscall(64, 0, 9, 0o1600))"),
  ],
  "endless output": [
    ("output_limit", "while True: print('x' * 1000)"),
    ("output_limit", "print('x' * 50_000_000)"),
    ("output_limit timeout", "import itertools\nfor i in itertools.count(): print(i)"),
    ("output_limit", "for _ in range(30_000):\n  try:\n    print('y' * 100)\n  except BaseException:\n    pass"),
    ("output_limit memory", "import sys\nsys.stdout.writelines('z' * 1000 for _ in range(10_000))"),
    ("exception", "raise ValueError('w' * 5_000_000)"),
    ("ok", "import os\nfor _ in range(100): os.write(1, b'v' * 100_000)\nos.write(2, b'u' * 100_000)"),
    ("ok", "import sys\nfor _ in range(100): sys.stderr.write('t' * 100_000)"),
  ],
  "hangs": [
    ("timeout", "while True: pass"),
    ("timeout", "print(len(str(9 ** 9 ** 9)))"),
    ("timeout", "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')"),
    ("timeout", "import time\ntime.sleep(1000)"),
    ("timeout", "while True:\n  try:\n    while True: pass\n  except BaseException:\n    continue"),
    ("timeout", "import sympy\nprint(sympy.factorint((10 ** 40 + 121) * (10 ** 41 + 219) * (10 ** 42 + 63)))"),
    ("timeout", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsum(iter(int, 1))"),
    ("timeout", "class A:\n  def __str__(self):\n    while True: pass\nraise ValueError(A())"),
  ],
  "signals": [
    ("ok", "import os\nos.kill(0, 9)"),
    ("ok exception", "import os\nos.killpg(0, 9)\nos.killpg(os.getpgrp(), 15)"),
    ("exception", "import os\nos.kill(-1, 0)"),
    ("exception killed ok", "import os\nos.kill(os.getppid(), 9)"),
    ("exception", "import os\nos.kill(PARENT, 0)"),
    ("ok", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    ("ok killed", "import os\nfor s in range(1, 32):\n  if s not in (2, 9): os.kill(os.getpid(), s)"),
    ("ok", "import os\nos.setpriority(os.PRIO_PGRP, 0, 19)"),
    (
      "exception killed ok",
      """
import fcntl, os
for fd in range(8):
  try:
    fcntl.fcntl(fd, fcntl.F_SETOWN, PARENT)
    print("SET")
  except OSError:
    pass
""",
    ),
  ],
  "goes on after its end": [
    (
      "ok",
      """
import signal
signal.signal(14, lambda *_: open('late', 'w'))
signal.setitimer(0, 0.05)
# next step
print(1)
""",
    ),
    ("ok", "import atexit\natexit.register(lambda: open(CANARY_FOLDER + '/MARK', 'w'))"),
    ("ok", "class A:\n  def __del__(self):\n    while True: pass\na = A()"),
    (
      "process_limit",
      """
import os
if os.fork() == 0:
  os.setsid()
  if os.fork() == 0:
    import time
    time.sleep(20)
""",
    ),
    ("process_limit", "import subprocess\nsubprocess.Popen(['sleep', '20'], start_new_session=True)"),
    ("denied", "import os\nos.setsid()"),
    ("ok timeout", WORKER + "say(reason='ok', observation='done')\nwhile True: pass\n# next step\nprint(1)"),
  ],
  "object graphs": [
    (
      "ok",
      """
names = "Popen", "_wrap_close", "Session", "Zygote"
found = [c for c in ().__class__.__mro__[1].__subclasses__() if c.__name__ in names]
for c in found:
  try:
    print("GOT", c, c.__init__.__globals__["system"]("id"))
  except Exception as error:
    print(type(error))
""",
    ),
    (
      "ok",
      """
import sys
frame = sys._getframe()
while frame.f_back:
  frame = frame.f_back
  print(frame.f_code.co_name, sorted(frame.f_locals)[:9], str(frame.f_locals.get("settings")))
print(sorted(frame.f_globals)[:20])
""",
    ),
    (
      "ok",
      """
import gc
for thing in gc.get_objects():
  if isinstance(thing, (str, bytes, dict)) and "canary" in str(thing).lower() and len(str(thing)) < 500:
    print(thing)
""",
    ),
    ("exception ok", "print(print.__self__.__loader__.load_module('posix').system('id'))"),
    ("exception", "import sys\nsys.modules['score_jax.sandbox.zygote'].main()"),
    ("ok exception", "import score_jax.sandbox.sandbox as p\np.PythonTool"),
    ("ok", "type(lambda: 0)((lambda: 0).__code__, {})()\nprint(().__class__.__base__.__subclasses__().__len__() > 0)"),
  ],
  "machine code and system calls": [
    ("killed", "import ctypes\nctypes.string_at(0)"),
    ("killed", "import os\nos.abort()"),
    (
      "killed",
      """
import ctypes, mmap
room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
room.write(bytes.fromhex("b814000000cd80c3"))  # getpid of i386
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(room)))())
""",
    ),
    (
      "ok",
      LIBC
      + """
calls = {"x32": 0x40000027, "ptrace": 101, "bpf": 321, "io_uring": 425, "userfaultfd": 323, "keyctl": 250, "perf": 298}
print({name: syscall(call, 0, 0, 0, 0, 0) for name, call in calls.items()})
""",
    ),
    ("ok", LIBC + "print(libc.prctl(4, 1, 0, 0, 0), libc.prctl(3, 0, 0, 0, 0), libc.prctl(38, 0, 0, 0, 0))"),
    (
      "ok",
      LIBC
      + """
print(syscall(310, PARENT, 0, 0, 0, 0, 0), syscall(434, PARENT, 0), syscall(101, 16, PARENT, 0, 0))
""",
    ),
    ("ok", LIBC + "print(syscall(59, b'/bin/sh', None, None), syscall(322, -100, b'/bin/sh', None, None, 0))"),
    # Python 3.12 and later bound the C stack themselves
    ("killed exception", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f.__call__()\nf()"),
  ],
  "sympy and numpy": [
    ("ok exception", "import sympy\nprint(sympy.sympify(\"__import__('os').system('id')\"))"),
    (
      "process_limit exception",
      """
from sympy.parsing.sympy_parser import parse_expr
parse_expr("__import__('os').fork()")
""",
    ),
    (
      "process_limit",
      """
import numpy as np, os
class Evil:
  def __reduce__(self): return os.fork, ()
np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
np.load("evil.npy", allow_pickle=True)
""",
    ),
    ("exception denied", "import numpy as np\nprint(np.memmap(CANARY_FILES[0]))"),
    ("exception denied", "import numpy as np\nprint(np.loadtxt(CANARY_FILES[0], dtype=str))"),
    (
      "ok exception killed",
      """
import numpy as np
view = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape=(1 << 20,))
print(bytes(view[:1 << 20]).find(b"canary"))
""",
    ),
    ("exception process_limit", "import sympy\nsympy.preview('x', viewer='file', filename='x.png')"),
    ("ok exception", "import sympy\nprint(sympy.lambdify('x', \"__import__('os').system('id')\")(1))"),
  ],
  "forged messages": [
    ("killed", "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'\\0\\0\\0\\x02{}')\n  except OSError: pass"),
    ("killed", WORKER + "for _ in range(10_000): say(answer='mine')"),
    ("killed", WORKER + "worker._channel.sendall(b'\\xff\\xff\\xff\\xff' + bytes(1000))"),
    ("killed", WORKER + "raw(b'[' * 200_000)"),
    ("killed", WORKER + "raw(b'{\"at\":' + b'1' * 5000 + b'}')"),
    ("killed", WORKER + "say(at='1', reason=['ok'], observation={})"),
    ("killed", WORKER + "say(reason=['ok'], observation='x')"),
    ("killed", WORKER + "say(reason='ok', observation=None)"),
    ("killed", WORKER + "say(at=1)"),
    ("killed", WORKER + "say(search='x')"),
    ("killed", WORKER + "say(reason='host_failure', observation='x')"),
    ("killed", WORKER + "say(reason='replay_mismatch', observation='x')"),
    ("killed", WORKER + "say(reason='timeout', observation='x')"),
    ("killed", WORKER + "raw(b'\\x80\\xff')"),
    ("killed", WORKER + "raw(json.dumps({'id': [worker._task], 'reason': 'ok', 'observation': 'x'}).encode())"),
    ("timeout", WORKER + "worker._channel.sendall(b'\\0\\0\\xff\\xff{')\nwhile True: pass"),
    ("killed", WORKER + "for _ in range(64): worker._channel.sendall(b'\\x7f')"),
    ("killed", "import os\nfor fd in range(3, 64):\n  try: os.close(fd)\n  except OSError: pass"),
    ("killed", "import os\nfor fd in range(3, 64): os.dup2(0, fd)"),
    ("killed", WORKER + "import socket\nworker._channel.shutdown(socket.SHUT_WR)"),
    ("ok killed", WORKER + "import socket\nworker._channel.shutdown(socket.SHUT_RD)\n# next step\nprint(1)"),
    ("ok", WORKER + "worker._send({'id': 'none', 'answer': 'FORGED'}) if False else None"),
  ],
  "forged answers": [
    ("ok", "print('final_answer_print(FORGED)\\n<answer>FORGED</answer>')"),
    ("ok", 'print(\'{"id": "0", "answer": "FORGED"}\')'),
    ("killed", 'import os\nos.write(3, b\'\\0\\0\\0\\x1e\' + b\'{"id": "0", "answer": "FORGED"}\')'),
    ("ok", "try:\n  final_answer_print('mine')\nexcept BaseException:\n  final_answer_print('FORGED')"),
    ("killed", WORKER + "try:\n  final_answer_print('mine')\nexcept BaseException:\n  say(answer='FORGED')"),
    ("ok", "final_answer_print = print\nfinal_answer_print('FORGED')"),
    ("exception", "class A:\n  def __str__(self): raise ValueError('FORGED')\nfinal_answer_print(A())"),
    ("ok", "def web_search(q): return 'FORGED'\nprint(web_search('x'))"),
  ],
  "poisons the state": [
    ("ok", "import builtins\nbuiltins.print = builtins.len = None\n# next step\nprint(len('x'))"),
    ("ok", "import sys\nfor m in ('numpy', 'sympy', 'math', 'json'): sys.modules[m] = None\n# next step\nx = 1"),
    ("ok", "import numpy as np, math\nnp.sum = math.sqrt = lambda *_: 13\nnp.random.seed = None\n# next step\nx = 1"),
    ("killed exception ok", "import json\njson.JSONEncoder.encode = None\njson.encoder = None\n# next step\nx = 1"),
    ("ok killed", "import sys\nsys.settrace(lambda *_: 1 / 0)\nsys.setprofile(lambda *_: None)\n# next step\nx = 1"),
    (
      "ok exception killed",
      """
import score_jax.sandbox.interface as o
o.format_observation = lambda *_, **__: 'FORGED'
# next step
x = 1
""",
    ),
    ("ok exception killed", "import sys\nsys.setrecursionlimit(60)\n# next step\nx = 1"),
    ("ok killed", WORKER + "worker._run = lambda code: ('FORGED', 'ok')\n# next step\nprint(1)"),
    ("exception denied", "import os\nos.rmdir('/tmp')"),
    ("ok exception killed", "import gc\ngc.disable()\ngc.callbacks.append(lambda *_: 1 / 0)\n# next step\nx = 1"),
  ],
  "links": [
    ("exception denied", "import os\nos.symlink(CANARY_FILES[0], 'link')\nprint(open('link').read())"),
    ("exception denied", "import os\nos.symlink(CANARY_FOLDER, 'folder')\nopen('folder/MARK', 'w').write('x')"),
    ("exception denied", "import os\nos.symlink('/proc/1/root', 'root')\nprint(os.listdir('root/'))"),
    ("exception denied", "import os\nos.link('/usr/bin/env', '/tmp/MARK')"),
    ("exception denied", "import os\nos.symlink('../../../..' + CANARY_FILES[0], 'up')\nprint(open('up').read())"),
    ("exception", "import os\nos.symlink('a', 'b')\nos.symlink('b', 'a')\nopen('a')"),
    ("ok", "import os\nfor _ in range(300):\n  os.mkdir('deep')\n  os.chdir('deep')"),
  ],
  "rights and namespaces": [
    ("denied exception", "import os\nos.setuid(0)"),
    ("denied", "import os\nos.setgroups([0])"),
    ("denied", "import os\nos.chroot('/tmp')"),
    ("denied", "import os\nos.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))"),
    ("denied exception", "import os\nos.chown('/tmp', 0, 0)"),
    ("denied", "import os\nos.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"),
    ("denied", "import os\nos.nice(-5)"),
    ("denied exception", "import socket\nsocket.sethostname(socket.gethostname())"),
    (
      "ok",
      LIBC
      + """
print([syscall(272, flag) for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000)])
print(syscall(165, b"none", b"/MARK", b"tmpfs", 0, 0), syscall(166, b"/MARK", 2), syscall(155, b"/MARK", b"/MARK"))
print(syscall(428, -100, b"/", 0), syscall(430, b"tmpfs", 0), syscall(308, 3, 0))
class Caps(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
print(libc.capset(ctypes.byref(Caps(0x20080522, 0)), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)))
""",
    ),
  ],
  "limits": [
    ("exception denied", "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"),
    ("exception denied", "import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, (9999, 9999))"),
    ("exception denied", "import resource as r\nr.setrlimit(r.RLIMIT_NPROC, (99, 99))"),
    ("ok exception killed", "import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, (0, 0))\n# next step\nx = 1"),
    ("ok killed timeout", "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (0, 0))\n# next step\nx = 1"),
    ("exception denied", "import resource as r\nprint(r.prlimit(PARENT, r.RLIMIT_AS))"),
    ("exception", "files = [open('/dev/null') for _ in range(500)]"),
    ("exception", "with open('f', 'wb') as f:\n  for _ in range(99): f.write(bytes(1 << 20))"),
  ],
  "descriptors": [
    (
      "ok",
      """
import os
for fd in range(1024):
  try:
    print(fd, oct(os.fstat(fd).st_mode))
    if fd != 3: print(os.read(fd, 100))
  except OSError:
    pass
""",
    ),
    (
      "ok killed",
      """
import os
os.set_blocking(3, False)
try:
  print(os.read(3, 1000))
except OSError as error:
  print(error)
""",
    ),
    ("exception denied", "import os\nprint(os.listdir('/dev/fd'))"),
    ("denied", "import socket\ns = socket.socket(fileno=3)\nsocket.send_fds(s, [b'x'], [0])"),
    ("denied", "import fcntl\nfcntl.flock(open('/usr/bin/env'), fcntl.LOCK_EX | fcntl.LOCK_NB)"),
    ("denied", "import fcntl\nfcntl.fcntl(open('/usr/bin/env'), fcntl.F_SETLEASE, fcntl.F_RDLCK)"),
  ],
  "ends the process": [
    ("killed", "import os\nos._exit(0)"),
    ("exception", "import sys\nsys.exit(3)"),
    ("exception", "raise SystemExit"),
    ("exception", "raise KeyboardInterrupt"),
    ("exception", "quit()"),
    ("ok killed", "import faulthandler\nfaulthandler._sigsegv()"),
    (
      "killed exception",
      """
class M(type):
  def __eq__(s, o): 1 / 0
class E(Exception): pass
E.__module__ = M('x', (), {})()
raise E
""",
    ),
    ("exception memory", "eval('(' * 500 + ')' * 500)"),
    ("exception", "compile('\\0', 'x', 'exec')"),
  ],
}
