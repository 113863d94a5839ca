"""What a reader has and a test hasn't, and what makes a long command short: tables, no code.

A block of the guide is run as it stands after these. ``{data}`` is the folder of tiny data sets.
"""

#: Text of a block → what stands in its place; patterns are tried in this order, on commands, Python and YAML.
STAND_INS = (
    # Weights that come from the network: a small architecture with random ones.
    (r"vit_base_patch16_224(?:\.mae)?\?pretrained=false", "vit_base_patch16_224"),
    (
        r"timm:vit_base_patch16_224(?:\.mae)?\?",
        "timm:vit_tiny_patch16_224?image_size=32&pretrained=false&",
    ),
    (
        r"timm:vit_base_patch16_224(?:\.mae)?",
        "timm:vit_tiny_patch16_224?image_size=32&pretrained=false",
    ),
    (
        r"timm:vit_base_patch16_dinov3\.lvd1689m",
        "timm:vit_tiny_patch16_224?image_size=48&pretrained=false",
    ),
    (
        r'"vit_base_patch16_224\.mae", pretrained=True',
        '"vit_tiny_patch16_224", img_size=32, pretrained=False',
    ),
    (
        r"timm:naflexvit_base_patch16_siglip\.v2_webli\?image_size=native&max_tokens=256",
        "timm:vit_tiny_patch16_224?pretrained=false&image_size=native&max_tokens=16",
    ),
    (
        r"transformers:facebook/vjepa2-vitl-fpc64-256\?frames=16",
        "bundled:mae-tiny?frames=2",
    ),
    (r"bundled:fashion-motion --epochs", "bundled:fashion-motion?target=direction --epochs"),
    # A tiny one of sound, and a module in place of weights that come with a package.
    (r"transformers:microsoft/wavlm-base-plus", "transformers:/data/wavlm"),
    (r"python:examples/sound/voice\.py", "python:/data/loudness.py"),
    (r'iceprobe\.load_probe\("hub:me/clutter"\)', "iceprobe.load_probe"),
    ("PYTHONPATH=tools iceprobe", "iceprobe"),
    (r"(pretrain_cnn:resnet\?)checkpoint=.*ignore=fc\.&", r"\1"),
    ("image_size=64&", "image_size=16&"),
    # Images.
    (r"imagenet1k\?root=/data/imagenet", "folder:/data/birds"),
    ("folder:/data/xrays", "folder:/data/birds"),
    ("/data/", "{data}/"),
    (r"root=/data\b", "root={data}"),
    # Fewer of everything.
    ('every="1000 steps"', 'every="1 step"'),
    (r"epochs=5,\s+limit=2000", "epochs=1, learning_rates=[1e-2]"),
    ('"image_size": 224', '"image_size": 32'),
    ("--shots 1,5,20,100", "--shots 1,2"),
    ("--shots 20 ", "--shots 2 "),
    ("--layers all", "--layers 0,-1"),
    ("--views 4", "--views 1"),
    (
        r"examples/zoo\.yaml",
        "examples/zoo.yaml backbone=timm:vit_tiny_patch16_224?image_size=32&pretrained=false",
    ),
    (
        r'"bundled:fashion", \[(.*)\], limit=500, epochs=5',
        r'"bundled:fashion", [\1], limit=60, epochs=1',
    ),
    ('"features/"\\)', '"features/", limit=60)'),
    ("limit=1500", "limit=60"),
    (r'"ep8\?layers=-2,-1"\]\)', '"ep8?layers=-2,-1"], epochs=1, seeds=1)'),
    # A step an epoch: 100 of them, below which a probe may be called undertrained in lines of its own.
    (r'("runs/tour",\s+seeds=2,\s+epochs=)15', r"\g<1>100"),
    ("epochs=15", "epochs=1"),
    (
        r'\["linear", "ep8"\], output="runs/segment"',
        r'["linear", "ep8"], output="runs/segment", epochs=1, seeds=1',
    ),
)

#: Command of iceprobe → options that make it short; the last of two equal options counts. (`demo`, which
#: has none of these, gets them as keys.)
SHORTER = {
    "demo": "limit=60 epochs=1 seeds=1 learning_rates=1e-2",
    "run": "--limit 60 --epochs 1 --seeds 1 --learning-rates 1e-2",
    "fit --live": "--limit 60 --epochs 1 --seeds 1 --learning-rates 1e-2",
    "fit": "--epochs 1 --seeds 1 --learning-rates 1e-2",
    "adapt": "--limit 60 --epochs 1 --seeds 1 --learning-rates 1e-2 --batch-size 30",
    "segment": "--limit 40 --epochs 1 --seeds 1 --learning-rates 1e-2",
    "extract --from": "",
    "extract": "--limit 60",
}

#: Options of pip and uv that take a value.
TAKE_A_VALUE = ("--constraint", "--index-url", "--wheel-dir", "--find-links", "--torch-backend")

#: What a page takes for granted, by its name.
BEFOREHAND = {
    "published.md": (
        "import os, torch\nos.makedirs('mae_base', exist_ok=True)\ntokens = torch.randn(2, 9, 24)\n"
        "state = {'0.cls_token': torch.randn(1, 4, 24), '0.v.weight': torch.randn(24, 24), '2.bias': torch.randn(5),\n"
        "    '1.running_mean': torch.zeros(24), '1.running_var': torch.ones(24), '2.weight': torch.randn(5, 24)}\n"
        "torch.save({'state_dict': state, 'meta': {}}, 'mae_base/ep_head.pth')"
    ),
    "README.md": "from timm import create_model\nmodel = create_model('vit_tiny_patch16_224', img_size=32)",
    "asking.md": "import iceprobe\nbackbone = iceprobe.load_backbone('bundled:mae-tiny')",
    "training_loops.md": (
        "import lightning.pytorch as pl, torch\n"
        "from iceprobe.backbones import Preprocessing\n"
        "encoder = torch.nn.Conv2d(3, 8, 8, 8)\n"
        "encoder.preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)\n"
        "class Module(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.backbone = encoder\n"
        "    def forward(self, images):\n"
        "        return {'loss': self.backbone(images).square().mean()}\n"
        "    def training_step(self, batch, index):\n"
        "        return self(batch)\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 1e-3)\n"
        "module = model = Module()\n"
        "batches = torch.utils.data.DataLoader(torch.rand(8, 3, 32, 32), 4)\n"
        "data = [{'images': one} for one in batches.dataset]\n"
        "train_step = module\n"
        "import copy\nmake_encoder = lambda: copy.deepcopy(encoder)\n"
    ),
    "segmentation.md": (
        "import iceprobe\nbackbone = iceprobe.load_backbone('bundled:mae-tiny')\n"
        "dataset = iceprobe.load_dataset('bundled:fashion-clutter')"
    ),
}

#: Run folders that pages speak of → which of two tiny runs lies there: the demo's, or one of another layer.
RUNS = {
    "runs/demo": "demo", "runs/mae": "demo", "runs/dino": "other",
    "runs/float16": "demo",
}  # fmt: skip

#: Commands that need a cluster, a store of objects or minutes → the test that runs them. Their options
#: are looked at all the same.
ELSEWHERE = (
    (r"^ray |--engine ray", "tests/cli/test_ray.py::test_a_killed_node_costs_its_shards_and_not_the_run"),
    (r"s3://", "tests/cli/test_remote.py::test_from_images_to_report"),
    (r"publish .*--to .?ep", "tests/cli/test_publish.py::test_a_run_is_published_as_a_row_of_the_authors_table"),
    (r"hub:me/", "tests/publishing/test_hub.py::test_what_is_sent_is_found_there_and_predicts_as_the_run_does"),
    (r"--published", "tests/cli/test_published.py::test_a_run_of_a_published_encoder_lies_beside_its_figures"),
    (r"^sbatch ", "tests/test_slurm.py::test_a_job_that_is_stopped_goes_on_in_the_next"),
)  # fmt: skip

#: Python blocks whose numbers differ from machine to machine, or with fewer images, by page and what
#: they hold: lines are counted, and of prose the beginning is compared. Of the others every character
#: has to be printed.
VARYING = (("tour.md", ""), ("probes.md", "iceprobe.probe("))

#: Pages that take more than five seconds.
SLOW = {
    "README.md",
    "adaptation.md",
    "asking.md",
    "backbones.md",
    "choosing.md",
    "clips.md",
    "cluster.md",
    "data.md",
    "index.md",
    "logging.md",
    "measurements.md",
    "measures.md",
    "probes.md",
    "report.md",
    "sound.md",
    "tour.md",
    "training_loops.md",
    "segmentation.md",
    "tokens.md",
}
