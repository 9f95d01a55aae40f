#include <gtest/gtest.h>

#include "launcher/job/load_job.h"
#include "launcher/job/resume_job.h"

namespace thimble::job {
namespace {

JobConfig run() {
  return parse_job_text(R"(
[model]
path = "m"
[data]
seq_len = 8
[[data.train]]
path = "a.txt"
[training]
max_steps = 10
global_batch_size = 4
micro_batch_size = 2
[optimizer]
lr = 1e-4
)",
                        "job.toml");
}

TEST(JobResume, Same) {
  const ResumeDiff diff = diff_for_resume(run(), run(), {});
  EXPECT_EQ(diff.verdict, ResumeVerdict::kSame);
  EXPECT_EQ(diff.text(), "");
}

TEST(JobResume, CadenceBudgetRecomputeContinue) {
  JobConfig job = run();
  job.checkpoint.save_steps = {5};
  job.memory.budget.value = ByteSize{5'000'000'000};
  job.memory.recompute.value = Recompute::kFull;
  job.output_dir = "/elsewhere";
  const ResumeDiff diff = diff_for_resume(run(), job, {});
  EXPECT_EQ(diff.verdict, ResumeVerdict::kContinues);
  EXPECT_EQ(diff.text(),
            "output_dir: \"runs\" -> \"/elsewhere\"\nmemory.budget: \"auto\" -> \"5GB\"\n"
            "memory.recompute: \"none\" -> \"full\"\ncheckpoint.save_steps: 500 -> 5");
}

TEST(JobResume, Duration) {
  JobConfig job = run();
  job.training.max_steps = 20;
  const ResumeDiff longer = diff_for_resume(run(), job, {});
  EXPECT_EQ(longer.verdict, ResumeVerdict::kNewDuration);
  EXPECT_EQ(longer.text(), "training.max_steps: 10 -> 20");
  job.training.max_steps.reset();
  job.training.num_epochs = 1.5;
  const ResumeDiff other = diff_for_resume(run(), job, {});
  EXPECT_EQ(other.verdict, ResumeVerdict::kNewDuration);
  EXPECT_EQ(other.text(), "training.max_steps: 10 -> not set\ntraining.num_epochs: not set -> 1.5");
}

TEST(JobResume, ModelDataSeedBatchLengthOptimizerAreRefused) {
  JobConfig job = run();
  job.seed = 1;
  job.model.dtype = DType::kF32;
  job.data.seq_len = 16;
  job.training.global_batch_size = 8;
  job.optimizer.lr = 1;
  job.checkpoint.save_steps = {5};
  const ResumeDiff diff = diff_for_resume(run(), job, {.model = true, .data = true});
  EXPECT_EQ(diff.verdict, ResumeVerdict::kRefused);
  EXPECT_EQ(diff.changes.size(), 6u);
  EXPECT_EQ(diff.text(),
            "seed: 42 -> 1\nmodel.dtype: \"bf16\" -> \"fp32\"\ndata.seq_len: 8 -> 16\n"
            "training.global_batch_size: 4 -> 8\noptimizer.lr: 0.0001 -> 1.0");
}

TEST(JobResume, MovedFilesContinueIfTheirContentIsTheSame) {
  JobConfig job = run();
  job.model.path = "m2";
  job.data.train[0].path = {"b.txt"};
  EXPECT_EQ(diff_for_resume(run(), job, {}).refused.size(), 2u);
  EXPECT_EQ(diff_for_resume(run(), job, {.model = true}).refused.size(), 1u);
  EXPECT_EQ(diff_for_resume(run(), job, {.model = true, .data = true}).verdict,
            ResumeVerdict::kContinues);
  job.data.train.emplace_back().path = {"c.txt"};
  EXPECT_EQ(diff_for_resume(run(), job, {.model = true, .data = true}).verdict,
            ResumeVerdict::kRefused);
}

TEST(JobResume, EvaluationDataMayChange) {
  JobConfig old_job = run();
  old_job.data.eval.emplace_back().path = {"e.txt"};
  JobConfig job = old_job;
  job.data.eval[0].path = {"f.txt"};
  job.data.eval.emplace_back().path = {"g.txt"};
  EXPECT_EQ(diff_for_resume(old_job, job, {}).verdict, ResumeVerdict::kContinues);
}

TEST(JobResume, AutoTakesTheResolvedValue) {
  JobConfig resolved = run();
  resolved.threads.value = 2;
  resolved.parallelism.zero_stage.value = 0;
  resolved.training.grad_dtype.value = DType::kF32;
  resolved.data.train[0].format = SampleFormat::kText;
  JobConfig job = run();
  job.training.micro_batch_size.value.reset();
  adopt_resolved_values(resolved, job);
  EXPECT_EQ(diff_for_resume(resolved, job, {}).verdict, ResumeVerdict::kSame);
  job.threads.value = 4;
  adopt_resolved_values(resolved, job);
  EXPECT_EQ(job.threads.value, 4);
}

// What is asked of one place is not held against what was found for the other.
TEST(JobResume, PlacesThatAreAskedForComeFirst) {
  constexpr StatePlace kMemory = StatePlace::kMemory, kSsd = StatePlace::kSsd;
  JobConfig resolved = run(), job = run();
  resolved.offload.state.value = resolved.offload.weights.value = kMemory;
  job.offload.weights.value = kSsd;
  adopt_resolved_values(resolved, job);
  EXPECT_TRUE(job.offload.state.is_auto());
  resolved.offload.state.value = resolved.offload.weights.value = kSsd;
  job = run();
  job.offload.state.value = kMemory;
  adopt_resolved_values(resolved, job);
  EXPECT_TRUE(job.offload.weights.is_auto());
  job = run();
  adopt_resolved_values(resolved, job);
  EXPECT_EQ(job.offload.state.value, kSsd);
  EXPECT_EQ(job.offload.weights.value, kSsd);
  // Nor a stage at which that cannot be.
  resolved.parallelism.zero_stage.value = 2;
  job = run();
  job.parallelism.zero_stage.value.reset();
  job.offload.weights.value = kSsd;
  adopt_resolved_values(resolved, job);
  EXPECT_TRUE(job.parallelism.zero_stage.is_auto());
  job.offload.weights.value.reset();
  job.offload.gradients.value = kSsd;
  adopt_resolved_values(resolved, job);
  EXPECT_EQ(job.parallelism.zero_stage.value, 2);
}

}  // namespace
}  // namespace thimble::job
