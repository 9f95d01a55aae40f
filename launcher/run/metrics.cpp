#include "launcher/run/metrics.h"

#include <spdlog/spdlog.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/io/staged.h"
#include "launcher/run/append_file.h"
#include "launcher/run/tensorboard.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

bool is_record_up_to(const std::string& line, std::int64_t last_step) {
  const Json record = Json::parse(line, nullptr, false);
  if (!record.is_object()) return false;
  const auto step = record.find("step");
  return step != record.end() && step->is_number_integer() &&
         step->get<std::int64_t>() <= last_step;
}

/// Copies the lines to keep; returns how many others there were.
std::int64_t copy_records(std::ifstream& from, std::ofstream& to, std::int64_t last_step) {
  std::int64_t dropped = 0;
  for (std::string line; std::getline(from, line);) {
    const bool torn = from.eof();  // the line feed is written last
    if (torn || !is_record_up_to(line, last_step)) {
      ++dropped;
    } else {
      to << line << '\n';
    }
  }
  return dropped;
}

/// Drops torn lines and those of steps after `last_step`; a crash leaves the old file or the new
/// one.
void drop_records_after(const fs::path& path, std::int64_t last_step) {
  std::ifstream from(path);
  if (!from) return;
  const fs::path kept = create_beside(path).path();
  std::ofstream to(kept, std::ios::trunc);
  const std::int64_t dropped = copy_records(from, to, last_step);
  to.close();
  if (!to) {
    const int error = errno;
    fs::remove(kept);
    spdlog::warn("{}: the records after step {} stay: cannot write {}: {}", path.string(),
                 last_step, kept.string(), std::strerror(error));
    return;
  }
  if (dropped == 0) {
    fs::remove(kept);
    return;
  }
  spdlog::info("{}: {} records after step {} dropped", path.string(), dropped, last_step);
  File::open_read_write(kept).data_sync();
  rename_path(kept, path);
}

}  // namespace

namespace {

// Moves aside the records of an earlier start that saved nothing or is not to be continued.
void move_records_aside(const fs::path& path) {
  std::error_code error;
  if (fs::file_size(path, error) == 0 || error) return;
  spdlog::info("the earlier {} is now {}", path.string(), move_aside(path).string());
}

}  // namespace

struct RunLog::Impl {
  explicit Impl(const fs::path& path) : lines(path) {}

  void write(const Json& record) {
    // Names may hold any bytes; JSON may not.
    lines.append(record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  }

  AppendFile lines;
  std::optional<TensorBoardWriter> plots;
};

RunLog::RunLog(const fs::path& run_dir, const Options& options) {
  const fs::path path = run_dir / "metrics.jsonl";
  if (options.resumed_step) {
    drop_records_after(path, *options.resumed_step);
  } else {
    move_records_aside(path);
  }
  impl_ = std::make_unique<Impl>(path);
  if (options.tensorboard) {
    impl_->plots.emplace(run_dir, options.resumed_step ? *options.resumed_step + 1 : 0);
  }
  impl_->write({{"event", "start"}, {"step", options.resumed_step.value_or(0)}});
}

RunLog::~RunLog() = default;
RunLog::RunLog(RunLog&&) noexcept = default;
RunLog& RunLog::operator=(RunLog&&) noexcept = default;

void RunLog::step(const StepMetrics& metrics) {
  Json tags = Json::object();
  for (const auto& [tag, bytes] : metrics.peak_bytes_by_tag) tags[tag] = bytes;
  impl_->write({{"event", "step"},
                {"step", metrics.step},
                {"steps", metrics.steps},
                {"loss", metrics.loss},
                {"grad_norm", metrics.grad_norm},
                {"lr", metrics.lr},
                {"tokens_seen", metrics.tokens_seen},
                {"trained_tokens", metrics.trained_tokens},
                {"epoch", metrics.epoch},
                {"step_ms", metrics.step_ms},
                {"tokens_per_s", metrics.tokens_per_s},
                {"model_tflops", metrics.model_tflops},
                {"mfu", or_null(metrics.mfu)},
                {"sol", or_null(metrics.sol)},
                {"peak_bytes", metrics.peak_bytes},
                {"peak_bytes_by_tag", std::move(tags)},
                {"disk_read_bytes", or_null(metrics.disk_read_bytes)},
                {"disk_written_bytes", or_null(metrics.disk_written_bytes)}});
  if (impl_->plots) {
    const std::array<TensorBoardWriter::Scalar, 4> values{
        {{"train/loss", metrics.loss},
         {"train/grad_norm", metrics.grad_norm},
         {"train/lr", metrics.lr},
         {"perf/tokens_per_s", metrics.tokens_per_s}}};
    impl_->plots->scalars(metrics.step, values);
  }
}

void RunLog::eval(const EvalMetrics& metrics) {
  impl_->write({{"event", "eval"},
                {"step", metrics.step},
                {"name", metrics.name},
                {"eval_loss", metrics.eval_loss},
                {"perplexity", metrics.perplexity},
                {"bits_per_byte", or_null(metrics.bits_per_byte)}});
  if (impl_->plots) {
    const std::array<TensorBoardWriter::Scalar, 1> values{{{"eval/loss", metrics.eval_loss}}};
    impl_->plots->scalars(metrics.step, values);
  }
}

void RunLog::checkpoint(std::int64_t step, const fs::path& path) {
  impl_->write({{"event", "checkpoint"}, {"step", step}, {"path", path.string()}});
}

void RunLog::exported(std::int64_t step, std::int64_t exported_step, const fs::path& path) {
  impl_->write({{"event", "export"},
                {"step", step},
                {"exported_step", exported_step},
                {"path", path.string()}});
}

void RunLog::end(std::int64_t step, std::string_view reason) {
  impl_->write({{"event", "end"}, {"step", step}, {"reason", reason}});
}

}  // namespace thimble
