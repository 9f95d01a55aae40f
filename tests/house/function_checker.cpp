#include "tests/house/function_checker.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/base/error.h"
#include "tests/house/function_scanner.h"

namespace thimble::house {
namespace {

/// "core/ops/cuda/*.cu" for a file of that folder.
std::string pattern_of(const std::string& path) {
  const std::filesystem::path file(path);
  return file.parent_path().generic_string() + "/*" + file.extension().string();
}

std::string whats_wrong(const std::string& path, const Function& function, Exceptions& exceptions) {
  const bool long_body = function.num_lines > kMaxFunctionLines;
  bool many_params = function.num_params > kMaxParams;
  if (many_params && function.is_kernel) {
    many_params = !exceptions.excuses(pattern_of(path), "kernels");
  }
  if ((!long_body && !many_params) || exceptions.excuses(path, function.name)) return "";
  std::string wrong = fmt::format("{}:{}: {}:", path, function.line, function.name);
  if (long_body) {
    wrong += fmt::format(" {} lines, at most {}", function.num_lines, kMaxFunctionLines);
  }
  if (many_params) {
    wrong += fmt::format("{} {} parameters, at most {}", long_body ? ";" : "", function.num_params,
                         kMaxParams);
  }
  return wrong;
}

}  // namespace

std::vector<std::string> check_functions(const Tree& tree, const Rooms& rooms,
                                         Exceptions& exceptions) {
  std::vector<std::string> breaches;
  for (const auto& [path, file] : tree) {
    if (!is_production(rooms.room_of(path))) continue;
    try {
      for (const Function& function : find_functions(file.text)) {
        const std::string wrong = whats_wrong(path, function, exceptions);
        if (!wrong.empty()) breaches.push_back(wrong);
      }
    } catch (const UserError& error) {
      breaches.push_back(fmt::format("{}: {}", path, error.what()));
    }
  }
  for (const std::string& line : exceptions.stale()) breaches.push_back(line);
  return breaches;
}

}  // namespace thimble::house
