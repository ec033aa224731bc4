"""COMMANDS: every verb, the settings it takes, the act that it calls.

The modules behind a command are imported when it runs, for Ray alone takes a second.
"""

from typing import NamedTuple


class Command(NamedTuple):
    """One verb, or two words.

    settings: "module:Class", whose fields are the flags. act: "module:function", called with these
    settings and, where it has such a parameter, a progress.Progress; what it returns is printed.
    """

    settings: str
    act: str
    summary: str
    example: str


COMMANDS: dict[str, Command] = {
    "harvest": Command(
        "harvest.harvest:HarvestConfig",
        "harvest.harvest:harvest",
        "crawl DICOM files on disk or S3 into a header lake",
        "radnet-lake harvest /archive s3://pacs/2019 --lake s3://lakes/ct --collection pacs",
    ),
    "label": Command(
        "label.label:LabelConfig",
        "label.funnel:label_and_print",
        "label every series by its headers; print the funnel and the label counts",
        "radnet-lake label --lake lake --mode default",
    ),
    "preprocess": Command(
        "volume.preprocess:PreprocessConfig",
        "volume.preprocess:preprocess",
        "turn the series of the training set into volumes of one size",
        "radnet-lake preprocess --lake lake --where \"sequence = 'T2-FLAIR'\"",
    ),
    "train": Command(
        "train.pretrain_plan:TrainConfig",
        "train.train:train",
        "train the network on the volumes and labels of the training set",
        "radnet-lake train --lake lake --out run --depth 18 --width 16 --epochs 20",
    ),
    "evaluate": Command(
        "evaluate.evaluate:EvaluateConfig",
        "evaluate.evaluate:evaluate",
        "print Table 1 of a training run, the paper's numbers beside it; draw its pictures",
        "radnet-lake evaluate run --split test",
    ),
    "predict": Command(
        "evaluate.predict:PredictConfig",
        "evaluate.predict:predict",
        "write what a trained network says of a lake's series, and its features, into the lake",
        "radnet-lake predict --run run --lake lake",
    ),
    "liver train": Command(
        "transfer.train_plan:LiverTrainConfig",
        "transfer.train:train_liver",
        "train a segmentation network on the pretrained, frozen encoder",
        "radnet-lake liver train --cases cases --out liver --freeze all --epochs 50",
    ),
    "liver evaluate": Command(
        "transfer.evaluate:LiverEvaluateConfig",
        "transfer.evaluate:evaluate_liver",
        "print Dice and IoU of a segmenter's run, the paper's Table 2 beside them; draw cases",
        "radnet-lake liver evaluate liver-run --split test",
    ),
    "liver sweep": Command(
        "transfer.sweep.trials:LiverSweepConfig",
        "transfer.sweep.sweep:sweep_liver",
        "train and measure every row of the paper's Tables 2 and 3, over seeds; print the tables",
        "radnet-lake liver sweep --cases cases --out sweep --seeds 3 --epochs 50",
    ),
    "liver prepare": Command(
        "transfer.prepare:LiverPrepareConfig",
        "transfer.prepare:prepare_cases",
        "make cases of CT and mask, and let the pretrained network choose their windows",
        "radnet-lake liver prepare --lits LITS --run run --out cases",
    ),
    "liver segment": Command(
        "transfer.segment:LiverSegmentConfig",
        "transfer.segment:segment_liver",
        "write masks of CT series, or of files, as DICOM SEG, NIfTI and pictures",
        "radnet-lake liver segment liver-run --lake lake --out masks --largest",
    ),
    "funnel": Command(
        "label.funnel:FunnelConfig",
        "label.funnel:funnel",
        "print how many series each exclusion takes",
        "radnet-lake funnel --lake lake --format csv",
    ),
    "explain": Command(
        "label.explain:ExplainConfig",
        "label.explain:explain",
        "say in words why a series has its labels, and why it is excluded",
        "radnet-lake explain 1.2.840.113619.2.176 --lake lake",
    ),
    "show": Command(
        "volume.show:ShowConfig",
        "volume.show:show",
        "draw a series before and after preprocessing, or many on a sheet",
        "radnet-lake show 1.2.840.113619.2.176 --lake lake -o out.png",
    ),
    "override": Command(
        "label.site:OverrideConfig",
        "label.site:override",
        "overrule the rules for one series, or for many by a checked file",
        'radnet-lake override 1.2.840.1 --label view --value axial --who "A. Reader" --why "seen"',
    ),
    "protocols": Command(
        "label.site:ProtocolsConfig",
        "label.site:protocols",
        "list the descriptions that most series without an answer share; add a protocol table",
        "radnet-lake protocols --lake lake",
    ),
    "export": Command(
        "label.export:ExportConfig",
        "label.export:export",
        "freeze the labels in one file, with rule set, lake version and counts",
        "radnet-lake export --lake lake -o labels.parquet",
    ),
    "query": Command(
        "lake.query:QueryConfig",
        "lake.query:query",
        "ask the lake in SQL: instances, series, funnel, training_set, rejects, runs, ...",
        'radnet-lake query --lake lake "select Modality, count(*) from instances group by all"',
    ),
    "shell": Command(
        "lake.query:ShellConfig",
        "lake.query:run_shell",
        "ask the lake in SQL, at a prompt",
        "radnet-lake shell --lake lake",
    ),
    "attach": Command(
        "lake.query:AttachConfig",
        "lake.query:write_database",
        "write a DuckDB file with the lake's views, for the plain duckdb command line",
        "radnet-lake attach lake lake.duckdb && duckdb lake.duckdb",
    ),
    "locate": Command(
        "lake.query:LocateConfig",
        "lake.query:locate",
        "print the files of a series; decrypts URIs, so it may need the key",
        "radnet-lake locate 1.2.840.113619.2.176 --lake lake",
    ),
    "compact": Command(
        "lake.compact:CompactConfig",
        "lake.compact:compact",
        "merge small files, drop rows that no longer count, delete unnamed files",
        "radnet-lake compact --lake lake",
    ),
    "phantom": Command(
        "phantom.phantom:PhantomConfig",
        "phantom.phantom:phantom",
        "write a procedural DICOM archive for demos and tests",
        "radnet-lake phantom archive --patients 4 --seed 7",
    ),
    "demo": Command(
        "cli.demo:DemoConfig",
        "cli.demo:demo",
        "make a phantom archive, harvest it, and say what to try next",
        "radnet-lake demo --out demo",
    ),
}

GROUPS = {"liver": "segment an organ with the pretrained network: the paper's Tables 2 and 3"}
"""First word of commands of two."""
