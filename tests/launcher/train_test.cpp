// The built program on a tiny job: exactness across interruptions and recomputation, memory against
// its plan, exit codes.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

class TrainTest : public testing::Test {
 protected:
  int run(const std::string& arguments, const std::string& environment = "") {
    return dir_.run(arguments, environment);
  }
  std::string file(const std::string& name) { return dir_.file(name); }
  void write(const std::string& name, const std::string& text) { dir_.write(name, text); }
  std::string model_of(const std::string& output) {
    return file(output + "/job/model/model.safetensors");
  }
  nlohmann::json expect_planned_memory(const std::string& name, const std::string& more);
  nlohmann::json last_step(const std::string& output) {
    std::istringstream lines(file(output + "/job/metrics.jsonl"));
    nlohmann::json last;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == "step") last = json;
    }
    return last;
  }

  ProgramDir dir_;
};

TEST_F(TrainTest, KilledAndResumedOrRecomputedGivesTheSameBits) {
  ASSERT_EQ(run("train job.toml --set output_dir=a"), 0) << file("err.txt");
  // The third save is killed half-way; the second one stays.
  EXPECT_EQ(
      run("train job.toml --set output_dir=b", "THIMBLE_FAILPOINT=checkpoint.manifest:5:kill"),
      128 + 9);
  ASSERT_EQ(run("train job.toml --set output_dir=b"), 0) << file("err.txt");
  EXPECT_NE(file("err.txt").find("resuming from"), std::string::npos);
  ASSERT_EQ(run("train job.toml --set output_dir=c --set memory.recompute=full"), 0);
  ASSERT_EQ(run("train job.toml --set output_dir=d --set memory.recompute=selective"), 0);
  for (const char* other : {"b", "c", "d"}) {
    EXPECT_EQ(model_of("a"), model_of(other)) << other;
    EXPECT_EQ(last_step("a")["loss"], last_step(other)["loss"]) << other;
  }
  EXPECT_EQ(run("train job.toml --set output_dir=a"), 0);
  EXPECT_NE(file("err.txt").find("is finished"), std::string::npos);
}

TEST_F(TrainTest, TheNumberOfThreadsChangesNoBits) {
  // Wide enough that every operation is cut into pieces.
  write(
      "config.json",
      R"({"model_type":"llama","hidden_size":320,"intermediate_size":700,"num_hidden_layers":2,)"
      R"("num_attention_heads":5,"num_key_value_heads":5,"vocab_size":257,"max_position_embeddings":256})");
  for (const char* threads : {"1", "2", "5"}) {
    ASSERT_EQ(run(std::string("train job.toml --set training.max_steps=3 --set data.seq_len=200 ") +
                  "--set training.global_batch_size=4 "
                  "--set optimizer.name=galore --set optimizer.rank=32 --set output_dir=" +
                  threads + " --set threads=" + threads),
              0)
        << file("err.txt");
    EXPECT_EQ(model_of("1"), model_of(threads)) << threads;
    EXPECT_EQ(last_step("1")["loss"], last_step(threads)["loss"]) << threads;
  }
}

// How bf16 is multiplied is measured once per run and then part of it.
TEST_F(TrainTest, TheMatmulPathIsRecordedAndKept) {
  const std::string bf16 = "train job.toml --set model.dtype=bf16 --set output_dir=";
  ASSERT_EQ(run(bf16 + "a", "THIMBLE_ISA=avx2"), 0) << file("err.txt");
  EXPECT_NE(file("a/job/job.resolved.toml").find("matmul = \"f32\""), std::string::npos);
  // Where another path would be measured to be faster, f32 goes on.
  ASSERT_EQ(run(bf16 + "a --set training.max_steps=8"), 0) << file("err.txt");
  EXPECT_NE(file("a/job/job.resolved.toml").find("matmul = \"f32\""), std::string::npos);
  EXPECT_EQ(run(bf16 + "b --set training.matmul=amx", "THIMBLE_ISA=avx2"), 2);
  EXPECT_NE(file("err.txt").find("training.matmul = \"amx\": not every rank's CPU has it"),
            std::string::npos)
      << file("err.txt");
}

// Runs the job and returns its plan.
nlohmann::json TrainTest::expect_planned_memory(const std::string& name, const std::string& more) {
  const std::string sets = " --set output_dir=" + name + " " + more;
  EXPECT_EQ(run("plan job.toml --json" + sets), 0) << file("err.txt");
  const auto plan = nlohmann::json::parse(file("out.txt"));
  EXPECT_EQ(run("train job.toml" + sets), 0) << file("err.txt");
  const auto step = last_step(name);
  std::map<std::string, std::int64_t> planned;
  for (const auto& phase : plan["phases"]) {
    if (phase["phase"] != "load" && phase["phase"] != "step" && phase["phase"] != "eval" &&
        phase["phase"] != "save")
      continue;
    for (const auto& [tag, bytes] : phase["by_tag"].items()) {
      planned[tag] = std::max(planned[tag], bytes.get<std::int64_t>());
    }
  }
  // The last step is written before that step's save, so io is compared where an earlier save has
  // shown it.
  EXPECT_FALSE(step["peak_bytes_by_tag"].empty());
  for (const auto& [tag, bytes] : step["peak_bytes_by_tag"].items()) {
    if (tag == "io") continue;
    EXPECT_EQ(bytes.get<std::int64_t>(), planned[tag]) << tag << sets;
  }
  return plan;
}

TEST_F(TrainTest, MemoryIsWhatThePlanSays) {
  for (const std::string recompute : {"none", "selective", "full"}) {
    for (const std::string dtype : {"bf16", "fp32"}) {
      for (const std::string micro : {"8", "2"}) {
        const auto plan = expect_planned_memory(
            "run-" + recompute + dtype + micro,
            "--set training.max_steps=2 --set memory.recompute=" + recompute +
                " --set model.dtype=" + dtype + " --set training.micro_batch_size=" + micro);
        EXPECT_EQ(plan["gradient_accumulation_steps"], micro == "8" ? 1 : 4);
      }
    }
  }
}

// Where steps differ, the plan is of the one that needs most.
TEST_F(TrainTest, MemoryOfStepsThatDifferIsPlanned) {
  for (const std::string fused : {"false", "true"}) {
    const std::string sets =
        "--set training.max_steps=8 --set training.micro_batch_size=2 "
        "--set training.grad_norm_mode=" +
        std::string(fused == "true" ? "per_tensor" : "exact") +
        " --set optimizer.fused_backward=" + fused + " --set optimizer.update_proj_gap=3";
    expect_planned_memory("galore" + fused,
                          sets +
                              " --set optimizer.name=galore --set optimizer.rank=2"
                              " --set optimizer.project_gradients=true");
    expect_planned_memory("badam" + fused, sets + " --set optimizer.name=badam");
    expect_planned_memory("frugal" + fused,
                          sets + " --set optimizer.name=frugal --set optimizer.proj_type=layers");
  }
}

TEST_F(TrainTest, StopSignalSavesAndExits75) {
  const std::string run_in_background =
      "bash -c '\"" + std::string(THIMBLE_BINARY) + "\" train \"" + dir_.path("job.toml").string() +
      "\" --set output_dir=\"" + dir_.path("s").string() +
      "\" --set training.max_steps=100000 --set checkpoint.save_steps=100000 > /dev/null 2>&1 & "
      "pid=$!; "
      "for i in $(seq 600); do grep -qs step.:3, \"" +
      dir_.path("s/job/metrics.jsonl").string() +
      "\" && break; sleep 0.05; done; kill -TERM $pid; wait $pid'";
  const int status = std::system(run_in_background.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 75);
  EXPECT_FALSE(fs::is_empty(dir_.path("s/job/checkpoints")));
}

// What a run saved after the step that it goes back to is not taken for its newest state.
TEST_F(TrainTest, GoingBackMovesLaterCheckpointsAside) {
  ASSERT_EQ(run("train job.toml"), 0) << file("err.txt");
  ASSERT_EQ(run("train job.toml --resume-from 2 --set training.max_steps=4"), 0);
  const fs::path checkpoints = dir_.path("runs/job/checkpoints");
  EXPECT_TRUE(fs::exists(checkpoints / "ckpt-4"));
  EXPECT_TRUE(fs::exists(checkpoints / "ckpt-4.old-1"));
  EXPECT_TRUE(fs::exists(checkpoints / "ckpt-6.old-1"));
  EXPECT_FALSE(fs::exists(checkpoints / "ckpt-6"));
  EXPECT_EQ(run("train job.toml --set training.max_steps=4"), 0);
  EXPECT_NE(file("err.txt").find("is finished: 4 steps done"), std::string::npos);
  EXPECT_EQ(run("train job.toml --resume never"), 2);
  EXPECT_NE(file("err.txt").find("--fresh moves that run aside"), std::string::npos);
}

TEST_F(TrainTest, MistakesExitWith2AndOneLine) {
  EXPECT_EQ(run("train nothing.toml"), 2);
  EXPECT_EQ(file("err.txt"), "error: nothing.toml: no such job file\n");
  EXPECT_EQ(run("train job.toml --set memory.budget=1MiB"), 2);
  EXPECT_NE(file("err.txt").find("nothing was started"), std::string::npos);
  EXPECT_EQ(run("train job.toml --set data.seq_len=4096"), 2);
  EXPECT_NE(file("err.txt").find("max_position_embeddings = 128"), std::string::npos);
  ASSERT_EQ(run("train job.toml --set training.max_steps=2"), 0);
  EXPECT_EQ(run("train job.toml --set optimizer.lr=1e-2"), 2);
  EXPECT_NE(file("err.txt").find("optimizer.lr"), std::string::npos);
  EXPECT_EQ(run("train job.toml --resume-from 7"), 2);
  EXPECT_NE(file("err.txt").find("holds the checkpoints of steps 2"), std::string::npos);
  EXPECT_EQ(run("generate --model runs/job --prompt the --max-new-tokens 5 --json"), 0);
  EXPECT_EQ(nlohmann::json::parse(file("out.txt"))["new_tokens"], 5);
  EXPECT_EQ(run("eval --model runs/job --text text.txt --json"), 0);
  EXPECT_GT(nlohmann::json::parse(file("out.txt"))["tokens"].get<int>(), 1000);
  EXPECT_EQ(run("convert runs/job converted --dtype fp32"), 0) << file("err.txt");
  EXPECT_EQ(run("inspect model converted --json"), 0);
}

TEST_F(TrainTest, MovedDataContinuesAlteredDataIsRefused) {
  ASSERT_EQ(dir_.run("train job.toml --set training.max_steps=2"), 0) << dir_.err();
  const std::string job = dir_.file("job.toml"), text = dir_.file("text.txt");
  const auto moved = [&](const char* to) {
    std::string changed = job;
    changed.replace(changed.find("text.txt"), 8, to);
    dir_.write("job.toml", changed);
  };
  dir_.write("moved.txt", text);
  dir_.write("altered.txt", text + "x");
  fs::remove(dir_.path("text.txt"));
  moved("altered.txt");
  EXPECT_EQ(dir_.run("train job.toml"), 2);
  EXPECT_NE(dir_.err().find("not the same content"), std::string::npos) << dir_.err();
  moved("moved.txt");
  EXPECT_EQ(dir_.run("train job.toml --set training.max_steps=3"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from"), std::string::npos) << dir_.err();
  dir_.write("moved.txt", text + "x");
  EXPECT_EQ(dir_.run("train job.toml --set training.max_steps=4"), 2);
  EXPECT_NE(dir_.err().find("data.train[0]: its content has changed"), std::string::npos)
      << dir_.err();
}

TEST_F(TrainTest, WeightsOfAnotherRunComeFromItsCheckpoint) {
  // In f32 the exported model and the checkpoint hold the same bits.
  const std::string train = "train job.toml --set model.dtype=fp32 --set training.max_steps=";
  ASSERT_EQ(run(train + "2"), 0) << file("err.txt");
  ASSERT_EQ(run(train + "1 --set name=a --init-from runs/job"), 0) << file("err.txt");
  fs::remove_all(dir_.path("runs/job/model"));
  ASSERT_EQ(run(train + "1 --set name=b --init-from runs/job"), 0) << file("err.txt");
  EXPECT_TRUE(file("runs/a/model/model.safetensors") == file("runs/b/model/model.safetensors"));
  fs::remove_all(dir_.path("runs/job/checkpoints"));
  EXPECT_EQ(run(train + "1 --set name=c --init-from runs/job"), 2);
  EXPECT_NE(file("err.txt").find("--init-from runs/job"), std::string::npos);
}

TEST_F(TrainTest, BadInputIsNamed) {
  const std::string config = file("config.json"), job = file("job.toml");
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  const auto expect = [&](const std::string& arguments, const std::string& part) {
    EXPECT_EQ(run("train " + arguments), 2) << arguments;
    EXPECT_NE(file("err.txt").find(part), std::string::npos) << arguments << file("err.txt");
  };
  write("short.txt", "few words");
  write("short.toml", replaced(job, "text.txt", "short.txt"));
  expect("short.toml --set data.val_set_size=0", "fewer than one sequence of data.seq_len = 64");
  write("empty.txt", "");
  write("empty.toml", replaced(job, "text.txt", "empty.txt"));
  expect("empty.toml", "empty.txt: the file is empty");
  write("bert.json", replaced(config, "llama", "bert"));
  expect("job.toml --set model.config=bert.json", "model_type 'bert' is not supported");
  write("narrow.json", replaced(config, "257", "200"));
  expect("job.toml --set model.config=narrow.json", "vocab_size is 200");
  expect("job.toml --trace nowhere/trace.json", "its directory does not exist");
  expect("job.toml --resume must", "no checkpoint to resume from");
}

TEST_F(TrainTest, DamagedOrForeignCheckpointsAreRefused) {
  ASSERT_EQ(run("train job.toml --set training.max_steps=2"), 0) << file("err.txt");
  // A run of another model, into which the checkpoint of this one is moved.
  std::string other = file("config.json");
  other.replace(other.find("\"num_hidden_layers\":2"), 21, "\"num_hidden_layers\":3");
  write("other.json", other);
  ASSERT_EQ(run("train job.toml --set model.config=other.json --set name=other --set "
                "training.max_steps=2"),
            0);
  const fs::path ours = dir_.path("runs/job/checkpoints/ckpt-2");
  const fs::path theirs = dir_.path("runs/other/checkpoints/ckpt-2");
  fs::remove_all(theirs);
  fs::copy(ours, theirs, fs::copy_options::recursive);
  EXPECT_EQ(run("train job.toml --set model.config=other.json --set name=other --set "
                "training.max_steps=4"),
            2);
  EXPECT_NE(file("err.txt").find("the checkpoint is of another model"), std::string::npos);
  std::string bytes = file("runs/job/checkpoints/ckpt-2/data-0.h5");
  bytes[bytes.size() / 2] ^= 4;
  write("runs/job/checkpoints/ckpt-2/data-0.h5", bytes);
  EXPECT_EQ(run("train job.toml --set training.max_steps=4"), 2);
  EXPECT_NE(file("err.txt").find("the checkpoint is damaged"), std::string::npos);
  EXPECT_NE(file("err.txt").find("no usable checkpoint is left"), std::string::npos);
}

TEST_F(TrainTest, SavesBeforeTheAllocationEnds) {
  const std::string slurm = "SLURM_JOB_ID=17 SLURM_JOB_NODELIST=node[1-4] SLURM_JOB_END_TIME=";
  EXPECT_EQ(run("train job.toml", slurm + std::to_string(std::time(nullptr) + 30)), 75)
      << file("err.txt");
  EXPECT_NE(file("err.txt").find("SLURM job 17 on node[1-4], until "), std::string::npos);
  EXPECT_NE(file("err.txt").find("stopped by the end of the allocation after step 0"),
            std::string::npos)
      << file("err.txt");
  EXPECT_TRUE(fs::exists(dir_.path("runs/job/checkpoints/ckpt-0")));
  // An end that has passed is of another job.
  EXPECT_EQ(run("train job.toml", slurm + "1000"), 0) << file("err.txt");
}

TEST_F(TrainTest, TraceHoldsTheOperationsOfThreeSteps) {
  ASSERT_EQ(run("train job.toml --trace trace.json"), 0) << file("err.txt");
  EXPECT_NE(file("err.txt").find("steps 3 to 5 are in trace.json"), std::string::npos);
  int losses = 0;
  for (const auto& event : nlohmann::json::parse(file("trace.json"))) {
    EXPECT_GE(event.value("dur", 0.0), 0.0);
    losses += event["name"] == "cross_entropy" ? 1 : 0;
  }
  EXPECT_EQ(losses, 3);
}

}  // namespace
}  // namespace thimble
