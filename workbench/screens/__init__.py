"""应用的各个界面；`workbench.app` 打开它们。"""
