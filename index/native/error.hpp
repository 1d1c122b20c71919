// The one exception type of the native core; module.cpp turns it into kvatlas.index.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace kvatlas {

enum class ErrorKind {
  input,       // InputError: an argument of the caller
  decode,      // DecodeError: a payload that is not a batch at all
  table_file,  // TableFileError: a shared-memory file that cannot be used, or no room
  stale,       // StaleTableError: the writer's heartbeat is too old
  checkpoint,  // CheckpointError: a checkpoint that cannot be written or used
  store,       // StoreError: a store of KV files, or a device, that cannot be used
  dump         // DumpError: content records that cannot be used, or no room for a snapshot
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace kvatlas
