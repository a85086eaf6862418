# Drawn streets, as toy_streets_256x512.py, but one test measures both domains: the one trained on, and the other.
_base_ = './toy_streets_256x512.py'
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiDomainDataset',
        pipeline=_base_.test_pipeline,  # mmseg's tools read it here, and replace it
        domains=dict(seen=_base_.seen_dataset, unseen=_base_.test_dataloader.dataset),
    )
)
test_evaluator = dict(_delete_=True, type='DomainIoUMetric')
