#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "launcher/job/help_job.h"
#include "launcher/job/load_job.h"
#include "launcher/job/walk_fields.h"
#include "launcher/job/write_job.h"

namespace thimble::job {
namespace {

TEST(JobSizes, ReadAndWrite) {
  EXPECT_EQ(parse_size("5GB")->bytes, 5'000'000'000);
  EXPECT_EQ(parse_size("20GiB")->bytes, std::int64_t{20} << 30);
  EXPECT_EQ(parse_size("512 MiB")->bytes, std::int64_t{512} << 20);
  EXPECT_EQ(parse_size("1.5GiB")->bytes, std::int64_t{3} << 29);
  EXPECT_EQ(parse_size("4096B")->bytes, 4096);
  EXPECT_EQ(parse_size("0B")->bytes, 0);
  for (const char* text :
       {"", "GB", "5", "5gb", "5 G", "-5GB", "+5GB", "5GB ", " 5GB", "1.2.3GB", ".GB", "inf GB",
        "nanB", "99999999999GB", "9223372036854775808B", "1e3GB", "9300000.5TB", "5\tGB"}) {
    EXPECT_FALSE(parse_size(text).has_value()) << text;
  }
  EXPECT_EQ(parse_size("9223372036854775807B")->bytes, std::numeric_limits<std::int64_t>::max());
  for (const std::int64_t bytes :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{1000}, std::int64_t{1024},
        std::int64_t{5'000'000'000}, std::int64_t{1} << 40, std::int64_t{123'456'789},
        std::numeric_limits<std::int64_t>::max()}) {
    EXPECT_EQ(parse_size(format_size({bytes}))->bytes, bytes) << format_size({bytes});
  }
  EXPECT_EQ(format_size({5'000'000'000}), "5GB");
  EXPECT_EQ(format_size({std::int64_t{20} << 30}), "20GiB");
}

TEST(JobFields, TextOfValues) {
  EXPECT_EQ(float_text(1), "1.0");
  EXPECT_EQ(float_text(0.1), "0.1");
  EXPECT_EQ(float_text(2e-5), "2e-5");
  EXPECT_EQ(float_text(1e-10), "1e-10");
  EXPECT_EQ(float_text(1e300), "1e300");
  EXPECT_EQ(toml_string("a\"b\\c\n\t\x01"), "\"a\\\"b\\\\c\\n\\t\\u0001\"");
  EXPECT_EQ((Range{.min = 0, .max = 1}.text()), "0 to 1");
  EXPECT_EQ((Range{.min = 0, .max = 1, .max_open = true}.text()), ">= 0 and < 1");
  EXPECT_EQ((Range{.min = 0, .min_open = true}.text()), "> 0");
  EXPECT_EQ((Range{.max = 5}.text()), "<= 5");
  EXPECT_EQ(Range{}.text(), "");
  EXPECT_FALSE((Range{.min = 0}.contains(std::numeric_limits<double>::quiet_NaN())));
  EXPECT_EQ(without_indices("data.train[12].path"), "data.train.path");
}

TEST(JobFields, EveryFieldIsDescribedOnce) {
  JobConfig job = full_job();
  std::set<std::string> keys;
  walk_fields(job, [&](const std::string& key, Field& field) {
    EXPECT_TRUE(keys.insert(key).second) << key;
    EXPECT_FALSE(field.doc.empty()) << key;
    EXPECT_EQ(field.doc.find('\n'), std::string_view::npos) << key;
    EXPECT_NE(field.doc.back(), '.') << key;
  });
  EXPECT_GT(keys.size(), 60u);
  std::set<std::string> variables;
  for (const std::string& key : variable_keys())
    EXPECT_TRUE(variables.insert(variable_name(key)).second) << key;
  EXPECT_TRUE(variables.contains("THIMBLE_OPTIMIZER_LR"));
  EXPECT_FALSE(variables.contains("THIMBLE_OPTIMIZER_BETAS"));
}

TEST(JobFields, KeysForCompletion) {
  const std::vector<std::string> keys = all_job_keys();
  for (const char* key : {"seed", "optimizer.lr", "data.train.path", "model.rope_scaling.factor",
                          "optimizer.groups.rank"}) {
    EXPECT_NE(std::find(keys.begin(), keys.end(), key), keys.end()) << key;
  }
  const std::vector<std::string> tables = all_job_tables();
  for (const char* table : {"model", "model.rope_scaling", "data.train", "data.eval", "export"}) {
    EXPECT_NE(std::find(tables.begin(), tables.end(), table), tables.end()) << table;
  }
}

constexpr std::string_view kSmall = R"(
[model]
path = "m"
[data]
seq_len = 8
[[data.train]]
path = "a.txt"
[training]
max_steps = 10
global_batch_size = 4
[optimizer]
lr = 1e-4
)";

TEST(JobFields, ResolvedJobReadsBackEqual) {
  const JobConfig job = parse_job_text(kSmall, "a.toml");
  EXPECT_EQ(job.lr_scheduler.warmup_ratio, kDefaultWarmupRatio);
  EXPECT_EQ(parse_job_text(resolved_job_text(job), "b.toml"), job);

  JobConfig changed = job;
  changed.name = "n\"\\\n\x7f";
  changed.threads.value = 3;
  changed.model.freeze = {"a", "b\\.c"};
  changed.model.rope_scaling =
      RopeScalingConfig{.rope_type = RopeScaling::Type::kYarn, .factor = 4.0};
  changed.model.rope_scaling->beta_fast = 32;
  changed.data.train.emplace_back().path = {"x", "y"};
  changed.data.train[1].fields = {{"text", "the content"}};
  changed.data.train[1].weight = 0.1;
  changed.data.eval.emplace_back().path = {"z"};
  changed.data.eval[0].document_separator = "\n\n";
  changed.data.val_set_size = 0;
  changed.training.micro_batch_size.value = 2;
  changed.optimizer.lr = 1.0 / 3.0;
  changed.lr_scheduler.warmup_ratio.reset();
  changed.lr_scheduler.warmup_steps = 5;
  changed.memory.budget.value = ByteSize{12345};
  changed.eval.sample_prompts = {"a", ""};
  changed.eval.sample_prompts.pop_back();
  EXPECT_EQ(parse_job_text(resolved_job_text(changed), "b.toml"), changed)
      << resolved_job_text(changed);
}

TEST(JobFields, InitIsAValidJobAlsoWhenUncommented) {
  const InitValues values{.model = "m",
                          .tokenizer = "byte",
                          .data = {"a.txt", "b.txt"},
                          .seq_len = 64,
                          .max_steps = 5,
                          .global_batch_size = 2,
                          .lr = 1e-3};
  const std::string text = commented_job_text(values);
  const JobConfig job = parse_job_text(text, "job.toml");
  EXPECT_EQ(job.model.path, "m");
  EXPECT_EQ(job.model.tokenizer, "byte");
  EXPECT_EQ(job.data.train[0].path, (std::vector<std::string>{"a.txt", "b.txt"}));
  EXPECT_EQ(job.training.max_steps, 5);
  std::string uncommented;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t end = text.find('\n', i);
    std::string line = text.substr(i, end - i);
    if (line.starts_with("# ") && line.find(" = ") != std::string::npos) line = line.substr(2);
    uncommented += line + "\n";
    i = end + 1;
  }
  EXPECT_EQ(parse_job_text(uncommented, "job.toml"), job) << uncommented;
  const InitValues scratch{.model = "config.json", .from_scratch = true, .data = {"a.txt"}};
  EXPECT_EQ(parse_job_text(commented_job_text(scratch), "job.toml").model.config, "config.json");
}

TEST(JobFields, HelpNamesWhatIsNear) {
  EXPECT_NE(job_help_text("data.train").find("[[data.train]]"), std::string::npos);
  EXPECT_NE(job_help_text("optimizer.lr").find("Takes: number > 0"), std::string::npos);
  try {
    job_help_text("optimiser");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(),
                 "help job.optimiser: no such table or key; did you mean job.optimizer?");
  }
}

}  // namespace
}  // namespace thimble::job
