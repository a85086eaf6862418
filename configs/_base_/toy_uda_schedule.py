# Adapts a small network on a CPU, from what the quickstart's source-only config has trained.
_base_ = './toy_schedule.py'
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=_base_.max_iters, by_epoch=False)]
