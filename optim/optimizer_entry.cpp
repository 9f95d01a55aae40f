#include "optim/optimizer_entry.h"

#include <algorithm>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {

std::vector<OptimizerKey> keys_of(const OptimizerEntry& entry) {
  std::vector<OptimizerKey> keys;
  std::istringstream words(entry.keys);
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    const bool has_value = equals != std::string::npos;
    keys.push_back({word.substr(0, equals), has_value ? word.substr(equals + 1) : ""});
  }
  return keys;
}

bool reads_key(const OptimizerEntry& entry, std::string_view key) {
  const std::vector<OptimizerKey> keys = keys_of(entry);
  return std::any_of(keys.begin(), keys.end(),
                     [&](const OptimizerKey& k) { return k.name == key; });
}

bool is_first(const std::optional<std::string>& setting, const TwoChoices& choices,
              bool otherwise) {
  if (!setting) return otherwise;
  if (*setting != choices.first && *setting != choices.second) {
    throw_user("optimizer: {} = \"{}\": allowed \"{}\", \"{}\"", choices.key, printable(*setting),
               choices.first, choices.second);
  }
  return *setting == choices.first;
}

AdamOptions with_state(AdamOptions adam, StateFormat format) {
  adam.state = format;
  return adam;
}

}  // namespace thimble
