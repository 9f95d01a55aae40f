#include "launcher/run/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/run/console.h"

namespace thimble {
namespace {

/// Prints "message", "warning: message" or "error: message" through the Console.
class ConsoleSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit ConsoleSink(std::shared_ptr<Console> console) : console_(std::move(console)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    console_->print_line(fmt::format("{}{}", prefix(message.level), text));
  }
  void flush_() override {}

 private:
  std::string prefix(spdlog::level::level_enum level) const {
    const auto painted = [this](const char* color, const char* word) {
      return console_->traits().color ? fmt::format("\x1b[{}m{}:\x1b[0m ", color, word)
                                      : fmt::format("{}: ", word);
    };
    if (level >= spdlog::level::err) return painted("31", "error");
    if (level == spdlog::level::warn) return painted("33", "warning");
    if (level == spdlog::level::info) return "";
    return painted("2", "debug");
  }

  std::shared_ptr<Console> console_;
};

spdlog::level::level_enum parse_level(std::string_view name) {
  constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                   spdlog::level::warn, spdlog::level::err};
  const auto& names = log_level_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return kLevels[found - names.begin()];
  const auto nearest = nearest_spelling(name, names);
  throw_user("log level '{}' is unknown{}; allowed: {}", printable(name),
             nearest ? fmt::format(", did you mean '{}'?", *nearest) : "", join(names));
}

}  // namespace

const std::vector<std::string>& log_level_names() {
  static const std::vector<std::string> names{"debug", "info", "warn", "error"};
  return names;
}

void start_logging(std::shared_ptr<Console> console, std::string_view level) {
  auto shown = console;
  auto sink = std::make_shared<ConsoleSink>(std::move(console));
  sink->set_level(parse_level(level));
  auto logger = std::make_shared<spdlog::logger>("thimble", std::move(sink));
  logger->set_level(spdlog::level::trace);  // each sink has its own level
  // A full disk loses lines of the log; one warning about that is enough.
  logger->set_error_handler(
      [told = false, console_of = std::move(shown)](const std::string& what) mutable {
        if (!std::exchange(told, true))
          console_of->print_line(fmt::format("warning: lines of the log are lost: {}", what));
      });
  spdlog::set_default_logger(std::move(logger));
}

void add_log_file(const std::filesystem::path& path, std::string_view level) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
    sink->set_level(std::min(parse_level(level), spdlog::level::info));
    sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    spdlog::default_logger()->sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& error) {
    spdlog::warn("there will be no log {}: {}", path.string(), error.what());
    return;
  }
  // Lines are few, and the last ones before a crash are the ones that matter.
  spdlog::default_logger()->flush_on(spdlog::level::info);
}

void stop_logging() {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
}

}  // namespace thimble
