#include "keeper/keeper_messages.h"

#include <nlohmann/json.hpp>

namespace thimble {

using Json = nlohmann::json;

std::string text_of(const SaveOutcome& outcome) {
  return Json{{"saved", outcome.moment.step},
              {"start", outcome.moment.start},
              {"path", outcome.path.string()},
              {"failure", outcome.failure},
              {"seconds", outcome.seconds}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<SaveOutcome> outcome_of(const std::string& text) {
  const Json json = Json::parse(text);
  if (!json.contains("saved")) return std::nullopt;
  return SaveOutcome{.moment = {json.at("saved"), json.at("start")},
                     .path = json.at("path").get<std::string>(),
                     .failure = json.at("failure"),
                     .seconds = json.at("seconds")};
}

}  // namespace thimble
