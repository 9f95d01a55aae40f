// The record of a run: <run>/metrics.jsonl, one JSON object per line, and TensorBoard event files
// beside it. It writes what it is given and computes nothing; what people read on the terminal is
// Progress.
//
// Not a number and infinities are written as null. A record the disk refuses is a warning, never an
// error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thimble {

/// An optimizer step, and the means over the steps since the record before it.
struct StepMetrics {
  std::int64_t step = 0;   ///< 1-based
  std::int64_t steps = 1;  ///< that loss, step_ms, the rates and sol are means of
  double loss = 0;         ///< nats per trained token
  double grad_norm = 0;    ///< before clipping
  double lr = 0;
  std::int64_t tokens_seen = 0;     ///< input positions since the start of training
  std::int64_t trained_tokens = 0;  ///< positions with a loss since the start of training
  double epoch = 0;
  double step_ms = 0;
  double tokens_per_s = 0;
  double model_tflops = 0;      ///< 10^12 FLOP/s, causal half of attention
  std::optional<double> mfu;    ///< over the datasheet peak
  std::optional<double> sol;    ///< speed of light, 0..1
  std::int64_t peak_bytes = 0;  ///< resident high-water mark
  std::vector<std::pair<std::string, std::int64_t>> peak_bytes_by_tag;
  /// Of what is on disk, by this rank since the record before; none: all is in memory.
  std::optional<std::int64_t> disk_read_bytes, disk_written_bytes;
};

/// One evaluation of one data set.
struct EvalMetrics {
  std::int64_t step = 0;
  std::string name{};    ///< of the data set
  double eval_loss = 0;  ///< nats per token
  double perplexity = 0;
  std::optional<double> bits_per_byte{};  ///< none where the text's bytes are unknown
};

class RunLog {
 public:
  struct Options {
    /// The step training continues from: records of later steps are dropped. None: all earlier
    /// records are.
    std::optional<std::int64_t> resumed_step{};
    bool tensorboard = true;
  };

  /// Opens the record in the run directory and writes a `start` line. A torn last line is dropped.
  /// Throws UserError if the files cannot be opened.
  RunLog(const std::filesystem::path& run_dir, const Options& options);
  ~RunLog();
  RunLog(RunLog&&) noexcept;
  RunLog& operator=(RunLog&&) noexcept;

  void step(const StepMetrics& metrics);
  void eval(const EvalMetrics& metrics);
  /// A checkpoint of `step` is durable at `path`.
  void checkpoint(std::int64_t step, const std::filesystem::path& path);
  /// After `step`, the weights of step `exported_step` are a model at `path`.
  void exported(std::int64_t step, std::int64_t exported_step, const std::filesystem::path& path);
  /// `reason`: "finished", "stopped by signal 15", ...
  void end(std::int64_t step, std::string_view reason);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thimble
