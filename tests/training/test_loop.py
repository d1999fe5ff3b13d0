import pytest, time
import tiny
def test_one(tmp_path):
    t=time.time()
    o, r = tiny.train(tmp_path/"a", tiny.experiment())
    print('A', time.time()-t); t=time.time()
    o, r = tiny.train(tmp_path/"b", tiny.experiment())
    print('B', time.time()-t); t=time.time()
    tiny.assert_same_run(tmp_path/"a", tmp_path/"b", tiny.experiment())
    print('C', time.time()-t); t=time.time()
