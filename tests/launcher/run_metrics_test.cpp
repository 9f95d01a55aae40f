#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/io/crc32c.h"
#include "launcher/run/append_file.h"
#include "launcher/run/metrics.h"
#include "launcher/run/tensorboard.h"
#include "tests/launcher/run_temp_dir.h"
#include "tests/launcher/tensorboard_event.pb.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::vector<Json> records(const fs::path& run) {
  std::vector<Json> result;
  std::istringstream lines(read_all(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) result.push_back(Json::parse(line));
  return result;
}

std::vector<std::int64_t> steps(const fs::path& run) {
  std::vector<std::int64_t> result;
  for (const Json& record : records(run)) {
    if (record["event"] == "step") result.push_back(record["step"]);
  }
  return result;
}

StepMetrics step_metrics(std::int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 2.5;
  metrics.grad_norm = 0.75;
  metrics.lr = 2e-5;
  metrics.tokens_seen = step * 100;
  metrics.trained_tokens = step * 90;
  metrics.tokens_per_s = 1234.5;
  metrics.sol = 0.5;
  metrics.peak_bytes = 1 << 20;
  metrics.peak_bytes_by_tag = {{"weights", 10}, {"io", 0}};
  metrics.disk_read_bytes = 7;
  return metrics;
}

template <typename T>
T little_endian(const std::string& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

std::uint32_t masked(std::string_view bytes) {
  const std::uint32_t checksum = crc32c(std::as_bytes(std::span(bytes)));
  return ((checksum >> 15) | (checksum << 17)) + 0xa282ead8u;
}

/// Parses an event file as TensorBoard does, checksums included.
std::vector<tensorboard::Event> read_events(const fs::path& path) {
  const std::string bytes = read_all(path);
  std::vector<tensorboard::Event> events;
  for (std::size_t at = 0; at < bytes.size();) {
    if (bytes.size() - at < 16) throw SystemError("torn record");
    const auto size = little_endian<std::uint64_t>(bytes, at);
    EXPECT_EQ(little_endian<std::uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
    const std::string message = bytes.substr(at + 12, size);
    EXPECT_EQ(message.size(), size);
    EXPECT_EQ(little_endian<std::uint32_t>(bytes, at + 12 + size), masked(message));
    tensorboard::Event event;
    EXPECT_TRUE(event.ParseFromString(message));
    events.push_back(event);
    at += 16 + size;
  }
  return events;
}

std::vector<fs::path> event_files(const fs::path& run) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (entry.path().filename().string().find(".tfevents.") != std::string::npos) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST(RunMetrics, EveryEventHasItsKeysInOrder) {
  const TempDir run("metrics");
  RunLog log(run.path(), {});
  log.step(step_metrics(1));
  log.eval({.step = 1, .name = "held-out", .eval_loss = 2, .perplexity = std::exp(2.0)});
  log.checkpoint(1, "checkpoints/step-1");
  log.end(1, "finished");
  const auto all = records(run.path());
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0].dump(), R"({"event":"start","step":0})");
  EXPECT_EQ(
      all[1].dump(),
      R"({"event":"step","step":1,"steps":1,"loss":2.5,"grad_norm":0.75,"lr":2e-05,"tokens_seen":100,)"
      R"("trained_tokens":90,"epoch":0.0,"step_ms":0.0,"tokens_per_s":1234.5,)"
      R"("model_tflops":0.0,"mfu":null,"sol":0.5,"peak_bytes":1048576,)"
      R"("peak_bytes_by_tag":{"weights":10,"io":0},"disk_read_bytes":7,"disk_written_bytes":null})");
  EXPECT_EQ(all[2]["event"], "eval");
  EXPECT_EQ(all[2]["name"], "held-out");
  EXPECT_TRUE(all[2]["bits_per_byte"].is_null());
  EXPECT_EQ(all[3]["path"], "checkpoints/step-1");
  EXPECT_EQ(all[4]["reason"], "finished");
}

TEST(RunMetrics, ValuesJsonCannotHoldBecomeNull) {
  const TempDir run("metrics");
  RunLog log(run.path(), {});
  StepMetrics metrics = step_metrics(1);
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  metrics.grad_norm = std::numeric_limits<double>::infinity();
  log.step(metrics);
  log.eval({.step = 1, .name = "\xff\xfe", .eval_loss = 1, .perplexity = 1});
  const auto all = records(run.path());
  EXPECT_TRUE(all[1]["loss"].is_null());
  EXPECT_TRUE(all[1]["grad_norm"].is_null());
}

TEST(RunMetrics, ResumeDropsLaterStepsAndTheTornLine) {
  const TempDir run("metrics");
  {
    RunLog log(run.path(), {});
    for (int step = 1; step <= 4; ++step) log.step(step_metrics(step));
  }
  AppendFile(run.path() / "metrics.jsonl").append(R"({"event":"step","step":2,"lo)");
  {
    RunLog log(run.path(), {.resumed_step = 2});
    log.step(step_metrics(3));
  }
  EXPECT_EQ(steps(run.path()), (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(records(run.path())[3].dump(), R"({"event":"start","step":2})");
  EXPECT_FALSE(fs::exists(run.path() / "metrics.jsonl.tmp"));
}

TEST(RunMetrics, ResumeAtTheLastStepKeepsTheFile) {
  const TempDir run("metrics");
  { RunLog(run.path(), {}).step(step_metrics(1)); }
  { RunLog(run.path(), {.resumed_step = 1}).step(step_metrics(2)); }
  EXPECT_EQ(steps(run.path()), (std::vector<std::int64_t>{1, 2}));
}

TEST(RunMetrics, StartFromScratchForgetsAnEarlierRecord) {
  const TempDir run("metrics");
  { RunLog(run.path(), {}).step(step_metrics(1)); }
  { RunLog log(run.path(), {}); }
  EXPECT_TRUE(steps(run.path()).empty());
  EXPECT_EQ(records(run.path()).size(), 1u);
}

TEST(RunMetrics, LinesThatAreNoRecordsAreDroppedOnResume) {
  const TempDir run("metrics");
  AppendFile file(run.path() / "metrics.jsonl");
  for (const char* line : {"[1]\n", "\n", "{\"step\":\"1\"}\n", "{\"event\":\"step\"}\n", "{{{\n",
                           "{\"event\":\"step\",\"step\":1}\n"}) {
    file.append(line);
  }
  { RunLog log(run.path(), {.resumed_step = 5}); }
  EXPECT_EQ(steps(run.path()), (std::vector<std::int64_t>{1}));
}

// Records are taken again as soon as there is where to put them.
TEST(RunMetrics, MissingDirectoryLosesRecordsNotTheRun) {
  const TempDir run("metrics");
  RunLog log(run.path() / "none", {});
  log.step(step_metrics(1));
  fs::create_directories(run.path() / "none");
  log.step(step_metrics(2));
  EXPECT_EQ(steps(run.path() / "none"), (std::vector<std::int64_t>{2}));
}

TEST(RunMetrics, FullDiskLosesRecordsNotTheRun) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  AppendFile file("/dev/full");
  EXPECT_NO_THROW(file.append("record\n"));
  EXPECT_NO_THROW(file.append("record\n"));
}

TEST(RunTensorBoard, EventFileParsesBack) {
  const TempDir run("tensorboard");
  {
    RunLog log(run.path(), {});
    log.step(step_metrics(1));
    log.eval({.step = 1, .name = "a", .eval_loss = 1.5, .perplexity = 4.5});
  }
  const auto files = event_files(run.path());
  ASSERT_EQ(files.size(), 1u);
  const auto events = read_events(files[0]);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_GT(events[0].wall_time(), 1.6e9);
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 0);
  ASSERT_EQ(events[2].summary().value_size(), 4);
  const char* tags[] = {"train/loss", "train/grad_norm", "train/lr", "perf/tokens_per_s"};
  const float values[] = {2.5f, 0.75f, 2e-5f, 1234.5f};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(events[2].summary().value(i).tag(), tags[i]);
    EXPECT_EQ(events[2].summary().value(i).simple_value(), values[i]);
  }
  EXPECT_EQ(events[2].step(), 1);
  EXPECT_EQ(events[3].summary().value(0).tag(), "eval/loss");
  EXPECT_EQ(events[3].summary().value(0).simple_value(), 1.5f);
}

TEST(RunTensorBoard, ResumeStartsANewFileThatReplacesLaterSteps) {
  const TempDir run("tensorboard");
  { RunLog log(run.path(), {}); }
  { RunLog log(run.path(), {.resumed_step = 7}); }
  const auto files = event_files(run.path());
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(read_events(files[1])[1].step(), 8);
}

TEST(RunTensorBoard, CanBeSwitchedOff) {
  const TempDir run("tensorboard");
  { RunLog log(run.path(), {.tensorboard = false}); }
  EXPECT_TRUE(event_files(run.path()).empty());
}

TEST(RunTensorBoard, FramingOfAKnownRecord) {
  // CRC32C of eight zero bytes is 0x8C28B28A (length 0), of nothing 0.
  const std::string record = tensorboard_record("");
  ASSERT_EQ(record.size(), 16u);
  EXPECT_EQ(little_endian<std::uint64_t>(record, 0), 0u);
  EXPECT_EQ(little_endian<std::uint32_t>(record, 8),
            ((0x8C28B28Au >> 15) | (0x8C28B28Au << 17)) + 0xa282ead8u);
  EXPECT_EQ(little_endian<std::uint32_t>(record, 12), 0xa282ead8u);
}

}  // namespace
}  // namespace thimble
