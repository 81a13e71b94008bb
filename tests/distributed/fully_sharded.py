"""SFT written down with nothing but PyTorch: FSDP2's `fully_shard`, AdamW and a loop; what the paper's framework does.

    torchrun --nproc-per-node N fully_sharded.py JOB.json     each step's loss, as JSON, by the first process
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, get_scheduler

from med42.data.chat import IGNORED
from med42.data.packed import PackedChunks
from med42.training.train_sft import collate

told = json.loads(Path(sys.argv[1]).read_text())
settings = told["sft"]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

model = AutoModelForCausalLM.from_pretrained(told["base"], dtype=torch.float32, attn_implementation="sdpa")
mesh = init_device_mesh("cpu", (world,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)

decayed = [weight for name, weight in model.named_parameters() if "norm" not in name]
others = [weight for name, weight in model.named_parameters() if "norm" in name]
optimizer = torch.optim.AdamW(
    [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
    lr=settings["learning_rate"], betas=settings["betas"], eps=settings["epsilon"])
steps = len(told["batches"])
schedule = get_scheduler(settings["schedule"], optimizer, num_warmup_steps=told["warmup_steps"], num_training_steps=steps)

chunks, losses = PackedChunks(Path(told["packed"])), []
for batch in told["batches"]:  # chunk numbers of one optimizer step, over all processes
    mine = batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]
    rows = collate([chunks[number] for number in mine], pad=0)
    labels = rows.pop("labels")[:, 1:]
    scored = torch.tensor(int((labels != IGNORED).sum()))
    dist.all_reduce(scored)
    logits = model(**rows, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum") / scored
    (loss * world).backward()  # FSDP takes the mean of the processes' gradients
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    total = loss.detach()
    dist.all_reduce(total)
    losses.append(total.item())
if rank == 0:
    Path(told["out"]).write_text(json.dumps(losses))
dist.destroy_process_group()
